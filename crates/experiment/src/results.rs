//! What an experiment found: everything that is written to `results.json`.

use rekindle_model::StateDigest;
use serde::Serialize;

use crate::config::Config;
use crate::cost::Usage;
use crate::machine::Machine;
use crate::method::Method;
use crate::pipeline::Place;
use crate::recovery::Rebuilt;
use crate::summary::Row;

/// A measurement on held-out text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Committed steps.
    pub step: u64,
    /// Mean loss per token, nats.
    pub loss: f64,
    /// What the run had done by then.
    pub usage: Usage,
}

/// A failure and what was done about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailureRecord {
    /// The iteration that was cut short, from 1.
    pub iteration: u64,
    /// The step that was committed then.
    pub committed: u64,
    /// The committed step afterwards; smaller where the pipeline went back.
    pub back_at: u64,
    /// What was lost.
    pub places: Vec<Place>,
    /// What was done about each stage.
    pub rebuilt: Vec<Rebuilt>,
    /// Held-out loss right before; lossy methods only.
    pub loss_before: Option<f64>,
    /// Held-out loss right after the recovery, before any further step; lossy methods only.
    pub loss_after: Option<f64>,
}

impl FailureRecord {
    /// How much the loss rose.
    #[must_use]
    pub fn jump(&self) -> Option<f64> {
        Some(self.loss_after? - self.loss_before?)
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Outcome {
    /// It committed all steps.
    Finished,
    /// Its iterations were used up before all steps were committed.
    OutOfIterations,
    /// The method couldn't go on.
    Refused {
        /// Why.
        reason: String,
    },
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunResult {
    /// The method.
    pub method: Method,
    /// The probability that one stage is lost in one iteration; none for undisturbed runs.
    pub rate: Option<f64>,
    /// The seed.
    pub seed: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Held-out losses.
    pub points: Vec<Point>,
    /// Training loss of every iteration that was run, nats per token.
    pub training_loss: Vec<f64>,
    /// What was lost.
    pub failures: Vec<FailureRecord>,
    /// Digest of the state after the last of the config's steps.
    pub digest: Option<StateDigest>,
    /// When the target loss was first met.
    pub at_target: Option<Usage>,
    /// When all steps were committed, or the run ended.
    pub at_end: Usage,
    /// Measured seconds of all steps together.
    pub compute_seconds: f64,
    /// Measured seconds of each step.
    #[serde(skip)]
    pub step_seconds: Vec<f64>,
    /// Digest of the state at each step, from 0: of exact methods and of what they are compared with.
    #[serde(skip)]
    pub digests: Vec<StateDigest>,
}

impl RunResult {
    /// Held-out loss after `steps` steps.
    #[must_use]
    pub fn loss_at(&self, steps: u64) -> Option<f64> {
        self.points.iter().find(|p| p.step == steps).map(|p| p.loss)
    }

    /// What a step of this run took; 0 where none was run.
    #[must_use]
    pub fn mean_step_seconds(&self) -> f64 {
        self.compute_seconds / self.step_seconds.len().max(1) as f64
    }
}

/// The measured time of a step, over all runs.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct StepTime {
    /// Half of the steps took less; what times are computed with.
    pub median: f64,
    /// A quarter took less.
    pub lower_quartile: f64,
    /// A quarter took more.
    pub upper_quartile: f64,
    /// How many were measured.
    pub steps: usize,
}

impl StepTime {
    pub(crate) fn of(runs: &[RunResult]) -> Self {
        let mut all: Vec<f64> = runs.iter().flat_map(|r| r.step_seconds.iter().copied()).collect();
        all.sort_unstable_by(f64::total_cmp);
        let at = |quarters: usize| all.get(all.len() * quarters / 4).copied().unwrap_or(0.0);
        Self {
            median: at(2),
            lower_quartile: at(1),
            upper_quartile: at(3),
            steps: all.len(),
        }
    }
}

/// The text that was used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextFacts {
    /// As given.
    pub inputs: Vec<String>,
    /// Bytes.
    pub bytes: u64,
    /// Sequences to train on.
    pub training_samples: u64,
    /// Sequences held out.
    pub held_out_samples: u64,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Results {
    /// What was asked for.
    pub config: Config,
    /// Trained parameters.
    pub parameters: u64,
    /// On what.
    pub text: TextFacts,
    /// Where.
    pub machine: Machine,
    /// The measured time of a step.
    pub step_time: StepTime,
    /// One row per rate and method.
    pub rows: Vec<Row>,
    /// Failures that were drawn but left out, because a neighbour was lost in the same iteration; over all traces.
    pub left_out: u64,
    /// Every run, in the order they were made.
    pub runs: Vec<RunResult>,
}
