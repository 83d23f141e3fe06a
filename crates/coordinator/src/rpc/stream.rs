//! A server stream: a task that sends until it is through, the client is gone, or the coordinator ends.

use rekindle_proto::ApiError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::Api;
use crate::handle::shutting_down;

/// Messages that wait for a client at most.
const QUEUE: usize = 16;

/// What a streaming handler returns.
pub(super) type Stream<T> = ReceiverStream<Result<T, Status>>;

/// Where a stream's task puts its messages.
pub(super) struct Out<T>(mpsc::Sender<Result<T, Status>>);

/// The client is gone.
pub(super) struct Gone;

impl<T> Out<T> {
    /// Sends one message, waiting for the client to take those before.
    pub(super) async fn send(&self, message: T) -> Result<(), End> {
        self.0.send(Ok(message)).await.map_err(|_| End::Gone(Gone))
    }
}

/// Why a stream's task stops before it is through.
pub(super) enum End {
    /// The client is gone.
    Gone(Gone),
    /// An error to tell.
    Error(ApiError),
}

impl From<ApiError> for End {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

impl Api {
    /// Starts the task of a stream.
    pub(super) fn stream<T, F>(&self, run: impl FnOnce(Out<T>) -> F) -> Response<Stream<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), End>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let work = run(Out(sender.clone()));
        let draining = self.draining.clone();
        self.tasks.spawn(async move {
            let error = tokio::select! {
                () = sender.closed() => None,
                () = draining.cancelled() => Some(shutting_down()),
                end = work => match end {
                    Err(End::Error(error)) => Some(error),
                    Ok(()) | Err(End::Gone(Gone)) => None,
                },
            };
            if let Some(error) = error {
                // A client that takes nothing sees the connection close.
                let _ = sender.try_send(Err(error.into()));
            }
        });
        Response::new(ReceiverStream::new(receiver))
    }
}
