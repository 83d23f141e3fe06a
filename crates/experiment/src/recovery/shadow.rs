//! Shadow copies: a guard holds each stage's state and repeats its update with the same gradient sums, so that it has
//! the same bits.
//!
//! The guard never reads the guarded stage's new weights: what it has at step s comes from the first weights and s
//! gradients.

use std::time::Instant;

use crate::cost::Usage;
use crate::error::Result;
use crate::pipeline::{Engine, Pipeline, Place, StageState, numels};

use super::{Loss, Rebuilt, Recovered, Recovery, Update};

/// The guards of all stages.
#[derive(Default)]
pub struct Shadow {
    guards: Vec<Guard>,
}

struct Guard {
    place: Place,
    engine: Engine,
    adam_steps: u64,
}

impl Guard {
    /// Takes over the first weights.
    fn start(pipeline: &Pipeline, place: Place) -> Result<Self> {
        let mut engine = pipeline.twin(place)?;
        let state = pipeline.state(place)?;
        state.put(&mut engine)?;
        Ok(Self {
            place,
            engine,
            adam_steps: state.adam_steps,
        })
    }

    fn update(&mut self, pipeline: &Pipeline, update: Update) -> Result<()> {
        self.adam_steps += 1;
        let lr = pipeline.lr_of(self.place, update.lr);
        let guarded = &pipeline.member(self.place).engine;
        for (layer, numel) in numels(guarded) {
            let sums = guarded.gradient_bytes(layer, 0..numel)?;
            self.engine.add_gradient_bytes(layer, 0..numel, &sums)?;
            self.engine.update(layer, self.adam_steps, lr, update.clip)?;
        }
        Ok(())
    }
}

impl Recovery for Shadow {
    fn committed(&mut self, pipeline: &Pipeline, step: u64, _: &mut Usage) -> Result<()> {
        if step == 0 {
            self.guards = Place::all(pipeline.shape().stages)
                .map(|place| Guard::start(pipeline, place))
                .collect::<Result<_>>()?;
        }
        Ok(())
    }

    fn before_update(&mut self, pipeline: &Pipeline, update: Update, usage: &mut Usage) -> Result<()> {
        let start = Instant::now();
        for guard in &mut self.guards {
            guard.update(pipeline, update)?;
        }
        usage.guard_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    fn recover(&mut self, pipeline: &mut Pipeline, loss: &Loss<'_>, _: &mut Usage) -> Result<Recovered> {
        let mut rebuilt = Vec::new();
        for guard in self.guards.iter().filter(|g| loss.places.contains(&g.place)) {
            pipeline.put(guard.place, &StageState::of(&guard.engine, guard.adam_steps)?)?;
            rebuilt.push(Rebuilt {
                place: guard.place,
                how: "its guard".to_owned(),
                parts: Vec::new(),
            });
        }
        Ok(Recovered {
            rebuilt,
            step: loss.committed,
        })
    }
}
