//! What the worker wants done.

use rekindle_types::{DeviceId, NumberedReport, Registration, StartTrainer};

use crate::TrainerKey;
use crate::trainer_messages::ToTrainer;

/// One thing to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Connect and register; answer with `SessionOpened`, `SessionRefused` or `SessionClosed`. An earlier session is
    /// dropped.
    OpenSession {
        /// What to say.
        registration: Box<Registration>,
    },
    /// Drop the session (or the attempt); no answer is expected.
    CloseSession,
    /// Send a report through the open session; dropped when it is broken.
    Send {
        /// The report.
        report: Box<NumberedReport>,
    },
    /// Say that the worker is alive.
    Heartbeat,
    /// Say that the worker was asked to leave and stops its trainers after this time, sooner when told to.
    Drain {
        /// Milliseconds.
        grace: crate::Millis,
    },
    /// Start a trainer process, answer `Spawned` or `SpawnFailed`, and pass it `Begin`.
    SpawnTrainer {
        /// Which.
        key: TrainerKey,
        /// What it is to be.
        start: Box<StartTrainer>,
        /// Host it listens on.
        listen_host: String,
        /// Processor threads it may use.
        threads: u32,
        /// What it computes on.
        device: DeviceId,
    },
    /// The process of trainer `from` is trainer `key` from now on: everything it says is that one's, also what it has
    /// said and wasn't heard yet. Pass it `Edit`.
    EditTrainer {
        /// What it was.
        from: TrainerKey,
        /// What it is.
        key: TrainerKey,
        /// What it is to be.
        start: Box<StartTrainer>,
    },
    /// Write a message to a trainer.
    ToTrainer {
        /// Which.
        key: TrainerKey,
        /// What.
        message: ToTrainer,
    },
    /// Ask a trainer to end: `ToTrainer::Stop`, then close its stdin.
    Terminate {
        /// Which.
        key: TrainerKey,
    },
    /// End a trainer's process with SIGKILL (its children too).
    Kill {
        /// Which.
        key: TrainerKey,
    },
    /// Make a trainer's process stand still (SIGSTOP): an injected fault.
    Suspend {
        /// Which.
        key: TrainerKey,
    },
    /// Let it go on (SIGCONT).
    Resume {
        /// Which.
        key: TrainerKey,
    },
    /// Say through the open session what became of an order for a fault; lost when it is broken.
    AnswerFault {
        /// The order.
        number: u64,
        /// Why it isn't done; none: it is.
        refusal: Option<String>,
    },
    /// End this very process with SIGKILL: an injected fault.
    KillSelf,
    /// Remove what is kept in memory for a job that has ended.
    Forget {
        /// The job.
        job: rekindle_types::JobId,
    },
    /// Write a warning to the log.
    Warn {
        /// One sentence.
        message: String,
    },
    /// Leave the process.
    Exit(ExitReason),
}

/// Why a worker leaves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExitReason {
    /// It was asked to.
    #[error("shut down")]
    Shutdown,
    /// The coordinator doesn't want it.
    #[error("the coordinator refused this worker: {message}")]
    Refused {
        /// The coordinator's words.
        message: String,
    },
}
