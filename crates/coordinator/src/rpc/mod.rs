//! The gRPC services. Each handler reads its request, asks the machine's task, writes the answer; no decisions here.

mod cluster;
mod faults;
mod jobs;
mod metrics;
mod page;
mod stream;
mod telemetry;
mod watch;
mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rekindle_proto::convert;
use rekindle_proto::{ApiError, Reason};
use rekindle_types::JobId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::faults::FaultAnswers;
use crate::handle::Handle;

/// What all services share. Implements every service.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) handle: Handle,
    /// Cancelled when streams are to end.
    pub(crate) draining: CancellationToken,
    /// Owns the tasks of streams and sessions.
    pub(crate) tasks: TaskTracker,
    pub(crate) sessions: Arc<AtomicU64>,
    pub(crate) started_at: u64,
    /// Orders for faults that wait for their answers.
    pub(crate) faults: Arc<FaultAnswers>,
}

/// Reads a required job id.
fn job_id(text: &str) -> Result<JobId, ApiError> {
    Ok(convert::job_id(text)?)
}

/// Does something that blocks, off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::new(
            Reason::Internal,
            "reading files ended unexpectedly; look at the coordinator's log",
        )),
    }
}
