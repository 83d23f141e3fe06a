//! What the worker is told.

use std::fmt;

use rekindle_types::{Command, Epoch, FaultOrder, JobId, RankId};

use crate::Millis;
use crate::trainer_messages::FromTrainer;

/// Names a trainer process of this worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrainerKey {
    /// The job.
    pub job: JobId,
    /// The epoch it was started for.
    pub epoch: Epoch,
    /// Its rank.
    pub rank: RankId,
}

impl fmt::Display for TrainerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.job, self.epoch, self.rank)
    }
}

/// What the coordinator asks of a registered worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTerms {
    /// Be heard of this often, milliseconds.
    pub heartbeat: Millis,
}

/// How a process ended and what it said last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exit {
    /// Exit status, when it exited by itself.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Its last lines on stderr, oldest first (a few, each short).
    pub last_lines: Vec<String>,
}

/// What happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The coordinator accepted the registration of the last `OpenSession`.
    SessionOpened {
        /// What it asks.
        terms: SessionTerms,
    },
    /// The coordinator closed the session with a reason, at registration or later.
    SessionRefused {
        /// Its words.
        message: String,
        /// Whether another attempt with the same name can't help (the registration is unusable).
        fatal: bool,
    },
    /// The session couldn't be opened or broke.
    SessionClosed {
        /// What the connection said.
        message: String,
    },
    /// The coordinator commands.
    Command(Command),
    /// The coordinator asks for a fault.
    Fault(FaultOrder),
    /// The process runs.
    Spawned {
        /// Which.
        key: TrainerKey,
    },
    /// The process couldn't be started.
    SpawnFailed {
        /// Which.
        key: TrainerKey,
        /// What the system said.
        message: String,
    },
    /// A trainer says something.
    FromTrainer {
        /// Which.
        key: TrainerKey,
        /// What.
        message: FromTrainer,
    },
    /// A process ended; all its output was read before.
    Exited {
        /// Which.
        key: TrainerKey,
        /// How.
        exit: Exit,
    },
    /// The worker is asked to leave. A second time: at once.
    Shutdown,
    /// Time passed. Send one at the latest at [`crate::Worker::next_deadline`].
    Tick,
}
