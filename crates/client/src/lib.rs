//! The client of a coordinator, as the command line uses it: typed calls, deadlines, retries, streams that come back.
//!
//! In: values of `rekindle-types` and of `rekindle_proto::view`. Out: the same, or a [`ClientError`] that says what
//! to do.
//!
//! Invariants
//! - CL-1 Every unary call ends within its deadline, also when nothing answers.
//! - CL-2 A call is only made again when making it twice has the effect of making it once: a submission carries a
//!   request id.
//! - CL-3 A stream that breaks is opened again where that is possible; it starts with a snapshot or after the last
//!   item seen, so that nothing is shown twice.
//!
//! Deliberately absent: reading job files and printing.

mod calls;
mod connect;
mod error;
mod faults;
mod feed;
mod retry;
mod streams;

pub use calls::{Cancel, JobText, Planned, Submission};
pub use connect::{Client, Options, Tls};
pub use error::ClientError;
pub use feed::{Feed, Source};
pub use rekindle_plan::PlanReport;
pub use rekindle_proto::view::{
    Checkpoint, CheckpointStatus, ClusterStatus, JobStatus, RankPhase, RankStatus, WorkerStatus,
};
pub use rekindle_proto::{ApiError, Reason};
pub use streams::{
    EventFeed, EventSource, JobWatch, LogFeed, LogLine, LogQuery, LogSource, MetricFeed, MetricSource,
    WatchSource, WatchUpdate,
};
