//! From what a run did to how long it would have taken.
//!
//! ```text
//! steps = iterations * (1 + what a step costs more) + micro-batches dropped / micro-batches of a step
//!         + failures * recovery + checkpoints * save + restores * restore
//!         + (measured seconds of the guards' updates and of scoring candidates) / (measured seconds of a step in the same run)
//! time  = steps * measured seconds of a step
//! ```
//!
//! The seconds of a step are the median over all steps of the experiment, so that a noisy moment of the machine
//! favours nobody; for the same reason guards and scores are measured against the steps between which they ran. The
//! rest is modelled, in units of a step, and comes from the CheckFree paper's cluster (500M parameters, 91.32 s a
//! step, 500 Mb/s); [`CostModel`] says which figure is which.

use serde::Serialize;

use crate::error::{ExperimentError, Result};
use crate::method::Method;

/// What is modelled, in units of a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CostModel {
    /// Detecting a loss and replacing the stage, for every method. Paper: about 30 s a failure, of steps of 91.32 s.
    pub recovery: f64,
    /// What a checkpoint holds up. Paper, table 2: 91.35 s a step with a checkpoint every 100 against 91.32 s, so 3 s
    /// each.
    pub checkpoint: f64,
    /// Reading a checkpoint back. The paper gives no figure; taken to be as long as writing one.
    pub restore: f64,
    /// A step with redundant computation. Paper, table 2: 151.04 s against 91.32 s.
    pub redundant: f64,
    /// The guards' gradients on the network, each step, nothing of it hidden: 4 bytes a parameter, 67M parameters a
    /// stage, 500 Mb/s.
    pub shadow: f64,
    /// CheckFree+'s copies of embedding and head, each step, nothing hidden: 131 MB each, on links of their own.
    pub replica: f64,
}

impl Default for CostModel {
    fn default() -> Self {
        Self {
            recovery: 0.33,
            checkpoint: 0.033,
            restore: 0.033,
            redundant: 1.654,
            shadow: 0.047,
            replica: 0.023,
        }
    }
}

impl CostModel {
    /// Checks that all are numbers of at least 0.
    ///
    /// # Errors
    /// [`ExperimentError::Config`] naming the option.
    pub fn validate(&self) -> Result<()> {
        let all = [
            ("--cost-recovery", self.recovery),
            ("--cost-checkpoint", self.checkpoint),
            ("--cost-restore", self.restore),
            ("--cost-redundant", self.redundant),
            ("--cost-shadow", self.shadow),
            ("--cost-replica", self.replica),
        ];
        match all.iter().find(|(_, n)| !(n.is_finite() && *n >= 0.0)) {
            Some((option, n)) => Err(ExperimentError::config(
                option,
                format!("{n} is no number of at least 0"),
            )),
            None => Ok(()),
        }
    }

    fn step(&self, method: Method) -> f64 {
        match method {
            Method::Redundant => self.redundant,
            Method::Shadow => 1.0 + self.shadow,
            Method::Neighbour(n) if n.swap => 1.0 + self.replica,
            _ => 1.0,
        }
    }

    /// How many plain steps take as long as `usage`, in a run whose steps took `step_seconds` and have `micro_batches`.
    #[must_use]
    pub fn steps(&self, method: Method, usage: &Usage, step_seconds: f64, micro_batches: u32) -> f64 {
        let beside = usage.guard_seconds + usage.scoring_seconds;
        usage.iterations as f64 * self.step(method)
            + usage.dropped_micro_batches as f64 / f64::from(micro_batches)
            + usage.failures as f64 * self.recovery
            + usage.checkpoints as f64 * self.checkpoint
            + usage.restores as f64 * self.restore
            + if beside > 0.0 { beside / step_seconds } else { 0.0 }
    }
}

/// What a run did up to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Usage {
    /// Steps that were run, those run again included.
    pub iterations: u64,
    /// Of these, steps that had been committed before.
    pub steps_again: u64,
    /// Micro-batches of iterations that a failure cut short.
    pub dropped_micro_batches: u64,
    /// Iterations in which something was lost.
    pub failures: u64,
    /// Stages that were lost.
    pub stages_lost: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Checkpoints read.
    pub restores: u64,
    /// Measured: the guards' updates.
    pub guard_seconds: f64,
    /// Measured: scoring candidates.
    pub scoring_seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_time_counts() {
        let usage = Usage {
            iterations: 100,
            dropped_micro_batches: 2,
            failures: 3,
            checkpoints: 10,
            restores: 3,
            guard_seconds: 0.5,
            scoring_seconds: 0.25,
            ..Usage::default()
        };
        let costs = CostModel {
            recovery: 1.0,
            checkpoint: 0.1,
            restore: 0.5,
            redundant: 2.0,
            shadow: 0.25,
            replica: 0.5,
        };
        let of = |name: &str| costs.steps(name.parse().unwrap(), &usage, 0.5, 4);
        let rest = 0.5 + 3.0 + 1.0 + 1.5 + 1.5;
        assert_eq!(of("checkfree"), 100.0 + rest);
        assert_eq!(of("redundant"), 200.0 + rest);
        assert_eq!(of("shadow"), 125.0 + rest);
        assert_eq!(of("checkfree+"), 150.0 + rest);
    }
}
