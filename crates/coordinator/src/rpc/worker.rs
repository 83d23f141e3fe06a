//! `rekindle.worker.v1.WorkerService`: a worker's session.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rekindle_coordinator_core::{Event, SessionId};
use rekindle_proto::convert::duration_to_ms;
use rekindle_proto::pb::worker::v1 as pb;
use rekindle_proto::{ApiError, ConvertError, Reason};
use rekindle_types::Registration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use crate::handle::{Input, shutting_down};
use crate::session::{Down, Link, QUEUE};

/// A connection must say who it is within this time.
const REGISTER: Duration = Duration::from_secs(10);

type Up = Streaming<pb::SessionRequest>;

#[tonic::async_trait]
impl pb::worker_service_server::WorkerService for Api {
    type SessionStream = ReceiverStream<Down>;

    async fn session(&self, request: Request<Up>) -> Result<Response<Self::SessionStream>, Status> {
        if self.draining.is_cancelled() {
            return Err(shutting_down().into());
        }
        let (down, receiver) = mpsc::channel(QUEUE);
        let up = request.into_inner();
        let session = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        // The answer's head goes out before the registration is read: a client may wait for it before it speaks.
        self.tasks.spawn(self.clone().serve_session(session, up, down));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Api {
    #[tracing::instrument(name = "session", skip_all, fields(session = session.0))]
    async fn serve_session(self, session: SessionId, mut up: Up, down: mpsc::Sender<Down>) {
        let closed = CancellationToken::new();
        let told = down.clone();
        let error = tokio::select! {
            error = self.converse(session, &mut up, down, &closed) => error.err(),
            // The machine closed it and told the worker why.
            () = closed.cancelled() => None,
            () = self.draining.cancelled() => Some(shutting_down()),
        };
        closed.cancel();
        self.faults.session_ended(session);
        if let Some(error) = error {
            tracing::warn!(%error, "session ended");
            let _ = told.try_send(Err(error.into()));
        }
        let lost = Input::Event(Event::SessionLost { session });
        // Fails only when the machine's task is gone.
        let _ = self.handle.put(lost).await;
    }

    /// Registers the worker and hands what it says to the machine, until its stream ends.
    async fn converse(
        &self,
        session: SessionId,
        up: &mut Up,
        down: mpsc::Sender<Down>,
        closed: &CancellationToken,
    ) -> Result<(), ApiError> {
        let registration = match tokio::time::timeout(REGISTER, next(up)).await {
            Ok(first) => registration(first?)?,
            Err(_) => return Err(invalid("message", "no registration came in time")),
        };
        tracing::debug!(worker = %registration.worker, "registration");
        let (link, acknowledgements) = Link::new(down, closed.clone());
        self.tasks.spawn(acknowledgements);
        self.handle
            .put(Input::Open(session, link, Box::new(registration)))
            .await?;
        while let Some(message) = next(up).await? {
            match message.message {
                Some(pb::session_request::Message::FaultAnswer(answer)) => {
                    self.faults.answered(session, answer)
                }
                _ => self.handle.put(Input::Event(event(session, message)?)).await?,
            }
        }
        Ok(())
    }
}

/// The next message; none when the stream ended or broke.
async fn next(up: &mut Up) -> Result<Option<pb::SessionRequest>, ApiError> {
    match up.message().await {
        Ok(message) => Ok(message),
        Err(status) if status.code() == tonic::Code::OutOfRange => Err(ApiError::from(&status)),
        Err(status) => {
            tracing::debug!(%status, "session broke");
            Ok(None)
        }
    }
}

fn registration(first: Option<pb::SessionRequest>) -> Result<Registration, ApiError> {
    use pb::session_request::Message;
    match first.and_then(|message| message.message) {
        Some(Message::Registration(registration)) => Ok(registration
            .try_into()
            .map_err(|e: ConvertError| e.inside("registration"))?),
        _ => Err(invalid(
            "message",
            "the first message of a session must be a registration",
        )),
    }
}

fn event(session: SessionId, message: pb::SessionRequest) -> Result<Event, ApiError> {
    use pb::session_request::Message;
    match message.message {
        Some(Message::Heartbeat(_)) => Ok(Event::Heartbeat { session }),
        Some(Message::Report(report)) => {
            let report = report.try_into().map_err(|e: ConvertError| e.inside("report"))?;
            Ok(Event::WorkerReport {
                session,
                report: Box::new(report),
            })
        }
        Some(Message::Draining(draining)) => {
            let grace = draining.grace.as_ref().map_or(0, duration_to_ms);
            Ok(Event::WorkerDraining { session, grace })
        }
        Some(Message::Registration(_)) => Err(invalid("message", "a second registration")),
        Some(Message::FaultAnswer(_)) => Err(invalid("message", "an answer is no event")),
        None => Err(invalid("message", "is not set")),
    }
}

fn invalid(field: &str, why: &str) -> ApiError {
    let violation = rekindle_types::Violation::new(field, why);
    ApiError::invalid(Reason::RequestInvalid, "the session", vec![violation])
}
