//! Trainer processes and their life cycle, as bookkeeping.
//!
//! ```text
//!   Start --> queued (an older epoch's process of the job still lives) --> loading --> ready --> training --> said its end --> gone
//!                                                                        \________ told to stop ________/
//! ```

use std::collections::BTreeMap;

use rekindle_types::{InMemory, JobId, Origin, RankId, StartTrainer, TrainerPhase};

use crate::TrainerKey;
use rekindle_types::clock::Mono;

/// A process that lives (or is being started).
#[derive(Debug, Clone)]
pub(crate) struct Trainer {
    pub(crate) phase: TrainerPhase,
    pub(crate) address: Option<String>,
    /// The last step it is known to have committed.
    pub(crate) step: u64,
    /// Whose state it found in memory.
    pub(crate) in_memory: InMemory,
    /// Connect came before it was ready: what to pass on.
    pub(crate) orders: Option<Orders>,
    /// It was told to end, and why.
    pub(crate) stopping: Option<String>,
    /// It said Finished or Failed, or its failure was reported otherwise.
    pub(crate) said_end: bool,
    /// When it is killed if it still lives.
    pub(crate) kill_at: Option<Mono>,
}

/// What Connect says.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    /// Where each rank listens.
    pub(crate) peers: BTreeMap<RankId, String>,
    /// What they start from.
    pub(crate) from: Origin,
}

impl Trainer {
    fn new() -> Self {
        Self {
            phase: TrainerPhase::Loading,
            address: None,
            step: 0,
            in_memory: InMemory::default(),
            orders: None,
            stopping: None,
            said_end: false,
            kill_at: None,
        }
    }

    /// Whether the coordinator should count it among the living.
    pub(crate) fn counts(&self) -> bool {
        !self.said_end
    }
}

/// All trainers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trainers {
    pub(crate) living: BTreeMap<TrainerKey, Trainer>,
    /// Orders that wait for older processes of their job to exit.
    pub(crate) queued: BTreeMap<TrainerKey, StartTrainer>,
}

impl Trainers {
    /// The newest epoch of a job that lives or waits here.
    pub(crate) fn newest(&self, job: &JobId) -> Option<rekindle_types::Epoch> {
        let keys = self.living.keys().chain(self.queued.keys());
        keys.filter(|key| key.job == *job).map(|key| key.epoch).max()
    }

    /// Enters a process that is about to be started.
    pub(crate) fn enter(&mut self, key: &TrainerKey) {
        self.living.insert(key.clone(), Trainer::new());
    }

    /// Takes the orders out whose older processes are gone.
    pub(crate) fn take_startable(&mut self) -> Vec<(TrainerKey, StartTrainer)> {
        let blocked = |key: &TrainerKey| {
            self.living
                .keys()
                .any(|old| old.job == key.job && old.epoch < key.epoch)
        };
        let free: Vec<TrainerKey> = self.queued.keys().filter(|key| !blocked(key)).cloned().collect();
        let take = |key: TrainerKey| self.queued.remove(&key).map(|start| (key, start));
        free.into_iter().filter_map(take).collect()
    }
}
