//! Every reason an API call may give for not being done. `docs/error-codes.md` is tested against this table.

use std::time::Duration;

use tonic::Code;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $code:ident;)+) => {
        /// Why a call wasn't done: `ErrorInfo.reason`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The name on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The canonical code that goes with it.
            #[must_use]
            pub fn code(self) -> Code {
                match self { $(Self::$name => Code::$code,)+ }
            }
        }
    };
}

reasons! {
    /// A field of the request is missing or impossible.
    RequestInvalid = "REQUEST_INVALID", InvalidArgument;
    /// The job file or resolved job can't be run.
    JobInvalid = "JOB_INVALID", InvalidArgument;
    /// The base model of the job can't be read.
    BaseModelUnreadable = "BASE_MODEL_UNREADABLE", InvalidArgument;
    /// No such job.
    JobNotFound = "JOB_NOT_FOUND", NotFound;
    /// No such log file.
    LogNotFound = "LOG_NOT_FOUND", NotFound;
    /// A job of this id exists already.
    JobExists = "JOB_EXISTS", AlreadyExists;
    /// The request id was used for another request.
    RequestIdReused = "REQUEST_ID_REUSED", AlreadyExists;
    /// The run's folder holds another run already.
    OutputNotEmpty = "OUTPUT_NOT_EMPTY", FailedPrecondition;
    /// The run's folder can't be written.
    OutputUnusable = "OUTPUT_UNUSABLE", FailedPrecondition;
    /// The job has ended already.
    JobEnded = "JOB_ENDED", FailedPrecondition;
    /// No cluster could run the job.
    NotPlaceable = "NOT_PLACEABLE", InvalidArgument;
    /// The workers there are can't hold the job.
    NotEnoughWorkers = "NOT_ENOUGH_WORKERS", FailedPrecondition;
    /// As many jobs as are allowed are queued or running.
    TooManyJobs = "TOO_MANY_JOBS", ResourceExhausted;
    /// Another living worker process has the name.
    WorkerNameTaken = "WORKER_NAME_TAKEN", AlreadyExists;
    /// The worker's registration can't be used.
    WorkerUnusable = "WORKER_UNUSABLE", InvalidArgument;
    /// A newer session of the same worker process took over.
    SessionReplaced = "SESSION_REPLACED", Aborted;
    /// The worker didn't take its messages in time.
    SessionTooSlow = "SESSION_TOO_SLOW", ResourceExhausted;
    /// The worker wasn't heard of within its lease.
    LeaseExpired = "LEASE_EXPIRED", DeadlineExceeded;
    /// The coordinator can't write its journal and ends.
    JournalFailed = "JOURNAL_FAILED", Unavailable;
    /// Too many calls wait already.
    Overloaded = "OVERLOADED", ResourceExhausted;
    /// The coordinator is ending.
    ShuttingDown = "SHUTTING_DOWN", Unavailable;
    /// The coordinator couldn't be reached. Said by the client library.
    Unreachable = "UNREACHABLE", Unavailable;
    /// The call took longer than its deadline.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded;
    /// A fault was to be injected where that isn't allowed or can't be done.
    FaultRefused = "FAULT_REFUSED", FailedPrecondition;
    /// A file of the run couldn't be read.
    RunUnreadable = "RUN_UNREADABLE", Internal;
    /// A defect of Rekindle.
    Internal = "INTERNAL", Internal;
}

impl Reason {
    /// The reason of a wire name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text)
    }

    /// When to try again, for reasons that pass.
    pub(super) fn retry_after(self) -> Option<Duration> {
        matches!(self, Self::Overloaded | Self::ShuttingDown | Self::Unreachable)
            .then_some(Duration::from_millis(500))
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
