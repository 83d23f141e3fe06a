//! Checkpoints: the whole pipeline goes back to the last one, exactly.

use crate::cost::Usage;
use crate::error::Result;
use crate::pipeline::{Pipeline, Place, StageState};

use super::{Loss, Rebuilt, Recovered, Recovery};

/// The last checkpoint, in memory: writing it out is modelled.
pub struct Checkpoint {
    every: u64,
    step: u64,
    states: Vec<(Place, StageState)>,
}

impl Checkpoint {
    pub fn new(every: u64) -> Self {
        Self {
            every,
            step: 0,
            states: Vec::new(),
        }
    }
}

impl Recovery for Checkpoint {
    fn committed(&mut self, pipeline: &Pipeline, step: u64, usage: &mut Usage) -> Result<()> {
        if !step.is_multiple_of(self.every) {
            return Ok(());
        }
        let places = Place::all(pipeline.shape().stages);
        self.states = places
            .map(|place| Ok((place, pipeline.state(place)?)))
            .collect::<Result<_>>()?;
        self.step = step;
        // The first weights are a function of the seed; nobody writes them.
        usage.checkpoints += u64::from(step > 0);
        Ok(())
    }

    fn recover(&mut self, pipeline: &mut Pipeline, loss: &Loss<'_>, usage: &mut Usage) -> Result<Recovered> {
        for (place, state) in &self.states {
            pipeline.put(*place, state)?;
        }
        usage.restores += u64::from(self.step > 0);
        let rebuilt = loss.places.iter().map(|&place| Rebuilt {
            place,
            how: format!("checkpoint of step {}", self.step),
            parts: Vec::new(),
        });
        Ok(Recovered {
            rebuilt: rebuilt.collect(),
            step: self.step,
        })
    }
}
