//! One session with the coordinator: a task that connects, registers, and carries messages both ways.
//!
//! It never retries; the machine decides when to open the next one.

use std::time::Duration;

use rekindle_proto::ConvertError;
use rekindle_proto::convert::{duration_from_ms, duration_to_ms, order_from_pb};
use rekindle_proto::pb::worker::v1 as pb;
use rekindle_proto::pb::worker::v1::session_request::Message as Up;
use rekindle_proto::pb::worker::v1::session_response::Message as Down;
use rekindle_proto::pb::worker::v1::worker_service_client::WorkerServiceClient;
use rekindle_types::{Command, NumberedReport, Registration};
use rekindle_worker_core::{Event, SessionTerms};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use super::{Incoming, WorkerError, WorkerOptions};

/// Messages that wait to be sent; a session that falls further behind is dropped and opened anew.
const OUTBOX: usize = 4096;
/// Time to connect, and for the coordinator's welcome.
const CONNECT: Duration = Duration::from_secs(5);
/// HTTP/2 pings find a connection that died without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where and how to connect.
#[derive(Clone)]
pub struct SessionOptions(Endpoint);

/// Checks the coordinator's URL and certificate.
pub fn endpoint(options: &WorkerOptions) -> Result<SessionOptions, WorkerError> {
    let bad = |why: String| WorkerError::Coordinator {
        url: options.coordinator.clone(),
        why,
    };
    let endpoint = Endpoint::from_shared(options.coordinator.clone()).map_err(|e| bad(e.to_string()))?;
    let mut endpoint = endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    if let Some(ca) = &options.tls_ca {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        endpoint = endpoint.tls_config(tls).map_err(|e| bad(e.to_string()))?;
    }
    Ok(SessionOptions(endpoint))
}

/// A session being opened or open. Dropping it ends it.
pub struct Session {
    outbox: mpsc::Sender<pb::SessionRequest>,
    task: AbortHandle,
}

impl Session {
    /// Starts to connect; what comes of it arrives as events of `generation`.
    pub fn open(
        options: SessionOptions,
        registration: Registration,
        generation: u64,
        events: mpsc::Sender<Incoming>,
    ) -> Self {
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let first = Up::Registration(pb::Registration::from(&registration));
        let _ = outbox.try_send(pb::SessionRequest { message: Some(first) });
        let task = tokio::spawn(async move {
            let end = match carry(options, outgoing, generation, &events).await {
                Ok(()) => Event::SessionClosed {
                    message: "the coordinator closed the session".to_owned(),
                },
                Err(status) => ended(&status),
            };
            let _ = events.send(Incoming::Session(generation, end)).await;
        });
        Self {
            outbox,
            task: task.abort_handle(),
        }
    }

    /// Queues a report.
    pub fn report(&self, report: &NumberedReport) -> Result<(), String> {
        self.push(Up::Report(pb::NumberedReport::from(report)))
    }

    /// Queues a sign of life.
    pub fn heartbeat(&self) -> Result<(), String> {
        self.push(Up::Heartbeat(pb::Heartbeat {}))
    }

    /// Queues the notice that the worker was asked to leave.
    pub fn drain(&self, grace_ms: u64) -> Result<(), String> {
        let grace = Some(duration_from_ms(grace_ms));
        self.push(Up::Draining(pb::Draining { grace }))
    }

    /// Queues the answer to an order for a fault.
    pub fn fault_answer(&self, number: u64, refusal: Option<String>) -> Result<(), String> {
        let refusal = refusal.unwrap_or_default();
        self.push(Up::FaultAnswer(pb::FaultAnswer { number, refusal }))
    }

    fn push(&self, message: Up) -> Result<(), String> {
        let request = pb::SessionRequest {
            message: Some(message),
        };
        self.outbox
            .try_send(request)
            .map_err(|e| format!("the session can't take a message: {e}"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A refusal is told from a broken connection by its code.
fn ended(status: &Status) -> Event {
    let message = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated => {
            Event::SessionRefused { message, fatal: true }
        }
        Code::AlreadyExists | Code::FailedPrecondition => Event::SessionRefused {
            message,
            fatal: false,
        },
        _ => Event::SessionClosed { message },
    }
}

async fn carry(
    SessionOptions(endpoint): SessionOptions,
    outgoing: mpsc::Receiver<pb::SessionRequest>,
    generation: u64,
    events: &mpsc::Sender<Incoming>,
) -> Result<(), Status> {
    let unavailable = |e: tonic::transport::Error| Status::unavailable(format!("can't connect: {e}"));
    let channel = endpoint.connect().await.map_err(unavailable)?;
    let mut client = WorkerServiceClient::new(channel);
    let late = |_| Status::deadline_exceeded("the coordinator didn't answer the registration");
    let response = tokio::time::timeout(CONNECT, client.session(ReceiverStream::new(outgoing))).await;
    let mut incoming = response.map_err(late)??.into_inner();
    let first = tokio::time::timeout(CONNECT, incoming.next())
        .await
        .map_err(late)?;
    let Some(Down::Welcome(welcome)) = first.transpose()?.and_then(|m| m.message) else {
        return Err(Status::internal("the coordinator's first message is no welcome"));
    };
    let send = async |event| events.send(Incoming::Session(generation, event)).await;
    if send(Event::SessionOpened {
        terms: terms(&welcome),
    })
    .await
    .is_err()
    {
        return Ok(());
    }
    while let Some(message) = incoming.next().await {
        let event = event(message?).map_err(|e| {
            Status::internal(format!("the coordinator sent a command that can't be read: {e}"))
        })?;
        if send(event).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// What a message is to the machine.
fn event(response: pb::SessionResponse) -> Result<Event, ConvertError> {
    match response.message {
        Some(Down::InjectFault(order)) => Ok(Event::Fault(order_from_pb(order)?)),
        _ => Ok(Event::Command(Command::try_from(response)?)),
    }
}

/// What the coordinator asks; without an interval a second is a safe one.
fn terms(welcome: &pb::Welcome) -> SessionTerms {
    let ms = welcome.heartbeat_interval.as_ref().map_or(1000, duration_to_ms);
    SessionTerms {
        heartbeat: ms.max(10),
    }
}
