//! Calls of NCCL that may not come back, each on a thread of its own that is left behind then.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rekindle_compute::cuda::nccl::Code;

use crate::Deadline;

/// An abort that is under way, on a thread of its own.
pub(crate) struct Aborting(pub(super) Receiver<Code>);

impl Aborting {
    /// Waits for it; the thread is left behind when it takes too long.
    pub(crate) fn wait(self, deadline: Deadline) {
        let left = deadline.remaining().unwrap_or_default();
        match self.0.recv_timeout(left) {
            Ok(Code::SUCCESS | Code::IN_PROGRESS) => {}
            Ok(code) => tracing::warn!(code = code.0, "aborting a communicator failed"),
            Err(_) => tracing::error!("aborting a communicator doesn't end; it is left behind"),
        }
    }
}

/// Calls `call` on a thread of its own.
pub(super) fn start<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Option<Receiver<T>> {
    let (done, result) = channel();
    let thread = std::thread::Builder::new().name("nccl".to_owned());
    match thread.spawn(move || drop(done.send(call()))) {
        Ok(_) => Some(result),
        Err(error) => {
            tracing::error!(%error, "no thread for a call of NCCL");
            None
        }
    }
}

/// The same, waiting for it at most `bound`.
pub(super) fn within<T: Send + 'static>(
    bound: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    start(call)?.recv_timeout(bound).ok()
}
