//! Trainer processes and their life cycle, as bookkeeping.
//!
//! ```text
//!   Start --> queued (an older epoch's process of the job still lives) --> loading --> ready --> training --> said its end --> gone
//!                                                                        \________ told to stop ________/
//!   training --> halted --> loading (edited: the same process in a newer epoch) --> ready ...
//!                             \--- dies, or isn't ready in time --> queued (a new process for that epoch)
//! ```

use std::collections::BTreeMap;

use rekindle_types::{Failure, InMemory, JobId, Origin, RankId, Report, StartTrainer, TrainerPhase};

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
    /// It was told to end.
    pub(crate) stopping: bool,
    /// It said Finished or Failed, or its failure was reported otherwise.
    pub(crate) said_end: bool,
    /// When it is killed if it still lives.
    pub(crate) kill_at: Option<Mono>,
    /// What it was started for, or last edited.
    pub(crate) start: StartTrainer,
    /// Whether it gives its epoch up.
    pub(crate) halt: Halt,
    /// It was edited and isn't ready yet: by when it has to be.
    pub(crate) edit_by: Option<Mono>,
}

/// Whether a trainer gives its epoch up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Halt {
    /// It doesn't.
    No,
    /// It was told to; after this time it is stopped.
    Told(Mono),
    /// It has, and waits.
    Done,
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
    fn new(start: StartTrainer) -> Self {
        Self {
            start,
            halt: Halt::No,
            edit_by: None,
            phase: TrainerPhase::Loading,
            address: None,
            step: 0,
            in_memory: InMemory::default(),
            orders: None,
            stopping: false,
            said_end: false,
            kill_at: None,
        }
    }

    /// Whether it waits for the next epoch.
    pub(crate) fn waits(&self) -> bool {
        self.halt == Halt::Done && !self.stopping && !self.said_end
    }

    /// Whether it can go over to the plan of `start`, as the rank that it is: it waits, and what it computes is of
    /// the same shape.
    pub(crate) fn may_go_over(&self, start: &StartTrainer) -> bool {
        self.waits() && self.start.plan.is_cut_as(&start.plan) && self.start.spec == start.spec
    }

    /// Whether it is neither told to end or halt nor has done so.
    pub(crate) fn is_at_work(&self) -> bool {
        self.halt == Halt::No && !self.stopping && !self.said_end
    }

    /// Whether its end is no surprise: it was told to end, or to halt and couldn't.
    pub(crate) fn ends_as_told(&self) -> bool {
        self.stopping || matches!(self.halt, Halt::Told(..))
    }

    /// It is told to end.
    pub(crate) fn stops(&mut self, kill_at: Mono) {
        self.stopping = true;
        self.kill_at.get_or_insert(kill_at);
    }

    /// It says that it has given its epoch up. What to report: nothing where that doesn't count.
    pub(crate) fn halts(&mut self, failure: Failure) -> Option<Report> {
        let counts = self.phase == TrainerPhase::Training && !self.stopping;
        match std::mem::replace(&mut self.halt, Halt::Done) {
            Halt::No if counts => Some(Report::Halted {
                failure: Some(failure),
            }),
            Halt::Told(..) if counts => Some(Report::Halted { failure: None }),
            before => {
                self.halt = before;
                None
            }
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
    pub(crate) fn enter(&mut self, key: &TrainerKey, start: &StartTrainer) {
        self.living.insert(key.clone(), Trainer::new(start.clone()));
    }

    /// Takes the orders out whose older processes are gone, or wait for orders of their own.
    pub(crate) fn take_startable(&mut self) -> Vec<(TrainerKey, StartTrainer)> {
        let blocked = |key: &TrainerKey| {
            self.living
                .iter()
                .any(|(old, trainer)| old.job == key.job && old.epoch < key.epoch && !trainer.waits())
        };
        let free: Vec<TrainerKey> = self.queued.keys().filter(|key| !blocked(key)).cloned().collect();
        let take = |key: TrainerKey| self.queued.remove(&key).map(|start| (key, start));
        free.into_iter().filter_map(take).collect()
    }
}
