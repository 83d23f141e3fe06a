//! What the coordinator is told.

use rekindle_types::{Epoch, JobId, JobSpec, NumberedReport, Registration, StartPoint};

use crate::{CommittedCheckpoint, Millis, Seq, SessionId, Token};

/// Why there is no state that will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFound {
    /// A sentence.
    pub message: String,
    /// Whether it may pass by itself: the store doesn't answer.
    pub passes: bool,
}

impl NotFound {
    /// What doesn't pass.
    #[must_use]
    pub fn lasting(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            passes: false,
        }
    }
}

/// A wish to run a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Names the wish: sent again with the same content it has no second effect. 1 to 128 bytes, or empty for none.
    pub request_id: String,
    /// The id wanted; none: `<name>-<n>`.
    pub job: Option<JobId>,
    /// A valid job (TY-4).
    pub spec: JobSpec,
    /// Whether it goes on from the newest valid checkpoint in its place.
    pub resume: bool,
    /// Only say whether it would be taken.
    pub validate_only: bool,
}

/// How a job is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CancelMode {
    /// The job's state is saved first, if it saves any; then as `Stop`.
    Graceful,
    /// The job is cancelled when its trainers have stopped, or after [`crate::Config::cancel_limit`].
    Stop,
    /// The job is cancelled at once; its trainers are told to stop and keep their slots until they did.
    Now,
}

/// What happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A client wants a job. Answered by one `Reply`.
    Submit {
        /// Whom to answer.
        token: Token,
        /// What it wants.
        submission: Box<Submission>,
    },
    /// A client wants a job ended. Answered by one `Reply`.
    Cancel {
        /// Whom to answer.
        token: Token,
        /// Which job.
        job: JobId,
        /// How.
        mode: CancelMode,
    },
    /// A worker connected and said who it is. Answered by `AcceptSession` or `CloseSession`.
    WorkerRegistered {
        /// The new connection.
        session: SessionId,
        /// Who it is.
        registration: Box<Registration>,
    },
    /// A worker reported something about a trainer.
    WorkerReport {
        /// The connection it came through.
        session: SessionId,
        /// What it said.
        report: Box<NumberedReport>,
    },
    /// A worker is alive.
    Heartbeat {
        /// The connection it came through.
        session: SessionId,
    },
    /// A worker was asked to leave and stops its trainers after `grace`, sooner when told to.
    WorkerDraining {
        /// The connection it came through.
        session: SessionId,
        /// Milliseconds until then.
        grace: Millis,
    },
    /// A worker's connection is gone (also after `CloseSession`).
    SessionLost {
        /// The connection.
        session: SessionId,
    },
    /// The answer to `FindStart`.
    StartFound {
        /// The job.
        job: JobId,
        /// The state to start from (none: the job's first weights), or why there is none that will do.
        found: Result<Option<StartPoint>, NotFound>,
        /// The newest epoch that the run's files know: of an earlier run that this one goes on from. The plan's is
        /// newer.
        after_epoch: Epoch,
        /// What was passed over or differs, a sentence each, with the kind of event it makes.
        notes: Vec<(String, String)>,
    },
    /// The answer to `CommitCheckpoint`.
    CheckpointWritten {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
        /// The step.
        step: u64,
        /// What is durable now, or why nothing is, after retries.
        outcome: Result<CommittedCheckpoint, String>,
        /// What else happened on the way, a sentence each, with the kind of event it makes.
        notes: Vec<(String, String)>,
    },
    /// All records up to this one are durable.
    Persisted {
        /// The newest durable record.
        seq: Seq,
    },
    /// The journal can't be written. The machine gives out `Halt` and does nothing more.
    PersistFailed {
        /// What the journal said.
        message: String,
    },
    /// The folder of a job's run couldn't be made or written.
    OutputFailed {
        /// The job.
        job: JobId,
        /// What went wrong, with the path.
        message: String,
    },
    /// Time passed. Send one at the latest at [`crate::Coordinator::next_deadline`], and after every restart.
    Tick,
}
