//! A whole pipeline in one process: one [`Stage`] after another, the engine that trainers use.
//!
//! ```text
//! forward_backward(micro-batches) -> loss      gradients summed, as integers, over micro-batches and positions
//! norms()                         -> Norms     per stage and over the model
//! update(lr, clip)                             AdamW, each stage with its own count of steps and factor on the learning rate
//! ```
//!
//! In a healthy pipeline all counts are the same and all factors 1; only lossy recovery makes them differ.

mod member;
mod pass;
mod place;
mod state;

use std::sync::Arc;

use rekindle_compute::Cpu;
use rekindle_model::{AdamW, ExactSum, Stage, StageSpec, StateDigest};
use rekindle_types::{LayerId, Numerics, Recompute};

use crate::config::Shape;
use crate::error::{ExperimentError, Result};
use rekindle_plan::average::BoostRule;

pub use member::Member;
pub use pass::MicroBatch;
pub use place::Place;
pub use state::{LayerState, StageState};

/// The engine of one stage.
pub type Engine = Stage<Cpu<f32>>;

/// The paper's Adam: no weight decay.
const ADAM: AdamW = AdamW {
    betas: [0.9, 0.999],
    eps: 1e-8,
    weight_decay: 0.0,
};

/// The pipeline.
pub struct Pipeline {
    shape: Shape,
    device: Arc<Cpu<f32>>,
    members: Vec<Member>,
    boost: BoostRule,
}

/// Gradient norms (L2, of the mean gradient, before clipping).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norms {
    /// Over the whole model.
    pub model: f64,
    /// Whether every element is finite.
    pub finite: bool,
}

impl Pipeline {
    /// A pipeline with the first weights of `seed`. `boost` says what becomes of the learning rate of a rebuilt stage.
    ///
    /// # Errors
    /// When the shape can't be built.
    pub fn new(shape: &Shape, seed: u64, threads: usize, boost: BoostRule) -> Result<Self> {
        let device = Arc::new(Cpu::new(threads).map_err(rekindle_model::EngineError::from)?);
        let members = Place::all(shape.stages)
            .map(|place| {
                let mut engine = Stage::new(Arc::clone(&device), spec(shape, place))?;
                engine.init_weights(seed)?;
                Ok(Member::new(place, engine))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            shape: shape.clone(),
            device,
            members,
            boost,
        })
    }

    /// The stages in pipeline order.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What the pipeline is made of.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// One stage.
    #[must_use]
    pub fn member(&self, place: Place) -> &Member {
        &self.members[place.index(self.shape.stages)]
    }

    /// One stage, to be changed.
    pub fn member_mut(&mut self, place: Place) -> &mut Member {
        &mut self.members[place.index(self.shape.stages)]
    }

    /// An engine like that of `place`, with zero weights: a guard's.
    ///
    /// # Errors
    /// When the device fails.
    pub fn twin(&self, place: Place) -> Result<Engine> {
        Ok(Stage::new(Arc::clone(&self.device), spec(&self.shape, place))?)
    }

    /// Sums up the step's gradients; each stage keeps its norm for [`rekindle_plan::average`].
    ///
    /// # Errors
    /// When the device fails.
    pub fn norms(&mut self) -> Result<Norms> {
        let (mut squares, mut finite) = (ExactSum::default(), true);
        for member in &mut self.members {
            let summary = member.engine.finish_gradients()?;
            finite &= summary.finite;
            match squares.add(summary.sum_squares) {
                Some(sum) => squares = sum,
                None => finite = false,
            }
            member.norm = Some(summary.sum_squares.norm());
        }
        let model = squares.norm();
        Ok(Norms { model, finite })
    }

    /// The learning rate that `place` takes its next step with, where the job's is `lr`.
    #[must_use]
    pub fn lr_of(&self, place: Place, lr: f64) -> f64 {
        lr * self.member(place).boost.factor(&self.boost)
    }

    /// AdamW on every stage. `clip` is the factor on the gradient.
    ///
    /// # Errors
    /// When the device fails.
    pub fn update(&mut self, lr: f64, clip: f64) -> Result<()> {
        for member in &mut self.members {
            let lr = lr * member.boost.factor(&self.boost);
            member.update(lr, clip)?;
        }
        Ok(())
    }

    /// Drops what the current step has summed up.
    ///
    /// # Errors
    /// When the device fails.
    pub fn abandon(&mut self) -> Result<()> {
        for member in &mut self.members {
            member.engine.discard_gradients()?;
        }
        Ok(())
    }

    /// Raises the learning rate of a rebuilt stage.
    pub fn raise(&mut self, place: Place) {
        let rule = self.boost;
        let member = self.member_mut(place);
        member.boost = member.boost.recovered(&rule);
    }

    /// The digest of weights and moments, that of a trainer's checkpoint of the same model.
    ///
    /// # Errors
    /// [`ExperimentError::Dead`] while a stage is lost.
    pub fn digest(&self) -> Result<StateDigest> {
        self.members
            .iter()
            .try_fold(StateDigest::default(), |sum, member| {
                if !member.alive {
                    return Err(ExperimentError::Dead { place: member.place });
                }
                Ok(sum.add(member.engine.digest()?))
            })
    }
}

fn spec(shape: &Shape, place: Place) -> StageSpec {
    let (model, each) = (shape.model(), shape.blocks_per_stage);
    let layers = match place {
        Place::Embed => 0..1,
        Place::Blocks(n) => 1 + n * each..1 + (n + 1) * each,
        Place::Head => model.num_hidden_layers + 1..model.num_hidden_layers + 2,
    };
    StageSpec {
        model,
        layers,
        micro_batch: shape.micro_batch,
        seq_len: shape.seq_len,
        numerics: Numerics::Exact,
        recompute: Recompute::None,
        tokens_per_step: shape.tokens(),
        lane: 0,
        lanes: 1,
        optimizer: ADAM,
    }
}

/// Elements of each layer of an engine.
pub(crate) fn numels(engine: &Engine) -> Vec<(LayerId, usize)> {
    let model = &engine.spec().model;
    engine
        .layers()
        .into_iter()
        .map(|l| (l, model.layout(l).numel()))
        .collect()
}
