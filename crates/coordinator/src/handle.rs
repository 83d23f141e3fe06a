//! How handlers ask the machine's task (CS-1).

use std::time::Duration;

use rekindle_coordinator_core::{Answer, CancelMode, Event, JobView, SessionId, Submission};
use rekindle_proto::{ApiError, Reason};
use rekindle_types::{JobId, Registration};
use tokio::sync::{mpsc, oneshot};

use crate::session::Link;
use crate::shell::Shell;

/// Where a request's answer goes.
pub(crate) type Reply = oneshot::Sender<Result<Answer, ApiError>>;

/// What the machine's task is asked.
pub(crate) enum Input {
    /// A job to run, and the folder it will write to.
    Submit(Box<Submission>, String, Reply),
    /// A job to end.
    Cancel(JobId, CancelMode, Reply),
    /// A worker's new connection.
    Open(SessionId, Link, Box<Registration>),
    /// Something happened outside.
    Event(Event),
    /// A look at the state.
    Query(Box<dyn FnOnce(&mut Shell) + Send>),
}

/// The way to the machine's task.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    inbox: mpsc::Sender<Input>,
    limit: Duration,
}

impl Handle {
    pub(crate) fn new(inbox: mpsc::Sender<Input>, limit: Duration) -> Self {
        Self { inbox, limit }
    }

    /// How long a call may wait.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Puts `input` into the queue, waiting for room.
    pub(crate) async fn put(&self, input: Input) -> Result<(), ApiError> {
        match self.inbox.send_timeout(input, self.limit).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(ApiError::new(
                Reason::Overloaded,
                "the coordinator has more calls waiting than it can take; try again",
            )),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(shutting_down()),
        }
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Input) -> Result<T, ApiError> {
        let (answer, wait) = oneshot::channel();
        self.put(make(answer)).await?;
        match tokio::time::timeout(self.limit, wait).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(shutting_down()),
            Err(_) => Err(ApiError::new(
                Reason::DeadlineExceeded,
                format!("no answer within {} s; try again", self.limit.as_secs()),
            )),
        }
    }

    /// Looks at the state.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Shell) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.ask(|answer| {
            Input::Query(Box::new(move |shell| {
                // Who asked may have given up.
                let _ = answer.send(look(shell));
            }))
        })
        .await
    }

    /// One job.
    pub(crate) async fn job(&self, id: &JobId) -> Result<(JobView, u64), ApiError> {
        let wanted = id.clone();
        self.query(move |shell| shell.job(&wanted))
            .await?
            .ok_or_else(|| unknown_job(id))
    }

    pub(crate) async fn submit(&self, submission: Submission, output: String) -> Result<Answer, ApiError> {
        self.ask(|reply| Input::Submit(Box::new(submission), output, reply))
            .await?
    }

    pub(crate) async fn cancel(&self, job: JobId, mode: CancelMode) -> Result<Answer, ApiError> {
        self.ask(|reply| Input::Cancel(job, mode, reply)).await?
    }
}

pub(crate) fn unknown_job(id: &JobId) -> ApiError {
    ApiError::not_found(Reason::JobNotFound, "job", id.as_str())
}

pub(crate) fn shutting_down() -> ApiError {
    ApiError::new(
        Reason::ShuttingDown,
        "the coordinator is ending; try again when it is back",
    )
}
