//! The methods at work: what each keeps while all is well, and what it does when a stage is lost.
//!
//! The driver calls, for every step, [`Recovery::before_update`] (gradients are complete) and
//! [`Recovery::committed`]; after a loss, with the lost stages destroyed and the step's gradients dropped,
//! [`Recovery::recover`].

mod candidates;
mod checkpoint;
mod mixing;
mod neighbour;
mod nothing;
mod replicas;
mod shadow;

use serde::Serialize;

use crate::cost::Usage;
use crate::error::Result;
use crate::method::Method;
use crate::pipeline::{MicroBatch, Pipeline, Place};
use rekindle_plan::average::Part;

/// Stages that were lost, and what is at hand to get them back.
pub struct Loss<'a> {
    /// What was lost, in pipeline order.
    pub places: &'a [Place],
    /// The step that the pipeline had committed.
    pub committed: u64,
    /// Micro-batches of the step that was cut short, from the first stage's cache: what candidates are scored on.
    pub cached: &'a [MicroBatch],
    /// The seed of the run.
    pub seed: u64,
    /// The iteration, for randomness.
    pub iteration: u64,
}

/// What was done about one stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rebuilt {
    /// The stage.
    pub place: Place,
    /// Where its state came from.
    pub how: String,
    /// The stages that were mixed, from 0, where some were.
    pub parts: Vec<Part>,
}

/// What was done about a loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// By stage.
    pub rebuilt: Vec<Rebuilt>,
    /// The committed step that the pipeline is at now.
    pub step: u64,
}

/// The numbers of an update, for guards.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// The job's learning rate.
    pub lr: f64,
    /// The factor on the gradient.
    pub clip: f64,
}

/// One method at work in one run.
pub trait Recovery {
    /// Gradients are complete, weights are still the old ones.
    ///
    /// # Errors
    /// When a device fails.
    fn before_update(&mut self, _pipeline: &Pipeline, _update: Update, _usage: &mut Usage) -> Result<()> {
        Ok(())
    }

    /// Step `step` (0: the first weights) is committed.
    ///
    /// # Errors
    /// When a device fails.
    fn committed(&mut self, _pipeline: &Pipeline, _step: u64, _usage: &mut Usage) -> Result<()> {
        Ok(())
    }

    /// Brings every lost stage back.
    ///
    /// # Errors
    /// [`crate::ExperimentError::Refused`] when the method can't.
    fn recover(&mut self, pipeline: &mut Pipeline, loss: &Loss<'_>, usage: &mut Usage) -> Result<Recovered>;
}

/// The recovery of a method.
#[must_use]
pub fn of(method: Method) -> Box<dyn Recovery> {
    match method {
        Method::Undisturbed(_) | Method::Redundant => Box::new(nothing::Nothing),
        Method::Checkpoint { every } => Box::new(checkpoint::Checkpoint::new(every)),
        Method::Shadow => Box::new(shadow::Shadow::default()),
        Method::Neighbour(neighbour) => Box::new(neighbour::Rebuild::new(neighbour)),
    }
}
