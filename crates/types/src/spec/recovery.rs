//! `[recovery]`: what a job may go on from when it has lost a part of itself.

use serde::{Deserialize, Serialize};

/// Where lost state may come from. See the design, section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoverySource {
    /// A trainer that dies leaves its state in its worker's memory: all ranks go on from the last step that all of them have there, at
    /// most the step in flight is run again. Exact. Costs as much memory again as weights and moments take.
    Local,
    /// Every rank has a guard on another worker that repeats its updates: ranks whose machine was lost with its memory go on from there, on
    /// another worker. Exact. Needs `local` for the ranks that weren't lost. Costs 4 bytes per parameter and step on the network, and
    /// as much memory as `local` again.
    Shadow,
    /// All ranks go back to the newest valid checkpoint (without one: to the beginning) and run the steps after it again. Exact.
    Checkpoint,
}

/// `[recovery]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverySpec {
    /// What is allowed; empty: a loss fails the job. Without `[checkpoint]` a lost worker fails the job.
    #[serde(default = "defaults::sources")]
    pub sources: Vec<RecoverySource>,
    /// With `shadow`: how many guards a rank has, each on another worker. So many workers may be lost at once, whichever they are. Every one of
    /// them costs as much as the first.
    #[serde(default = "defaults::guards")]
    pub guards: u32,
    /// Restarts without progress that lasts (a checkpoint, or a step committed from memory) in between; one more loss fails the job.
    #[serde(default = "defaults::max_restarts")]
    pub max_restarts: u32,
}

impl RecoverySpec {
    /// How many guards each rank is to have: none without `shadow`.
    #[must_use]
    pub fn guards_wanted(&self) -> u32 {
        match self.sources.contains(&RecoverySource::Shadow) {
            true => self.guards,
            false => 0,
        }
    }
}

impl Default for RecoverySpec {
    fn default() -> Self {
        Self {
            sources: defaults::sources(),
            guards: defaults::guards(),
            max_restarts: defaults::max_restarts(),
        }
    }
}

mod defaults {
    use super::RecoverySource;

    pub(super) fn sources() -> Vec<RecoverySource> {
        vec![RecoverySource::Local, RecoverySource::Checkpoint]
    }
    pub(super) fn guards() -> u32 {
        1
    }
    pub(super) fn max_restarts() -> u32 {
        8
    }
}
