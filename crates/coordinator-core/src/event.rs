//! What the coordinator is told.

use rekindle_types::{JobId, JobSpec, NumberedReport, Registration};

use crate::{Seq, SessionId, Token};

/// A wish to run a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Names the wish: sent again with the same content it has no second effect. 1 to 128 bytes, or empty for none.
    pub request_id: String,
    /// The id wanted; none: `<name>-<n>`.
    pub job: Option<JobId>,
    /// A valid job (TY-4).
    pub spec: JobSpec,
    /// Only say whether it would be taken.
    pub validate_only: bool,
}

/// How a job is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CancelMode {
    /// The job is cancelled when its trainers have stopped, or after [`crate::Config::cancel_limit`].
    Graceful,
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
    /// A worker's connection is gone (also after `CloseSession`).
    SessionLost {
        /// The connection.
        session: SessionId,
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
