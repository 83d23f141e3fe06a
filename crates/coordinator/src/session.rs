//! One worker's connection: its bounded way down (CS-3) and when acknowledgements go out (CS-4).

use rekindle_coordinator_core::SessionTerms;
use rekindle_proto::ApiError;
use rekindle_proto::convert::{command_to_pb, duration_from_ms, order_to_pb};
use rekindle_proto::pb::worker::v1 as pb;
use rekindle_types::{Command, FaultOrder, WorkerId};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::files::Wait;

/// Commands that wait for a worker at most.
pub(crate) const QUEUE: usize = 256;

/// What goes down a session.
pub(crate) type Down = Result<pb::SessionResponse, Status>;

/// Reports up to a number are to be acknowledged once the files are written.
#[derive(Debug, Clone, Default)]
struct Due {
    up_to: u64,
    files: Vec<Wait>,
}

/// The machine's side of a worker's connection.
#[derive(Debug)]
pub(crate) struct Link {
    down: mpsc::Sender<Down>,
    due: watch::Sender<Due>,
    closed: CancellationToken,
    /// Whose it is, once its registration was taken.
    pub(crate) worker: Option<WorkerId>,
}

impl Link {
    /// A link that sends through `down`. Its acknowledgements go out by the returned future, until `closed`.
    pub(crate) fn new(
        down: mpsc::Sender<Down>,
        closed: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (due, waiting) = watch::channel(Due::default());
        let pump = acknowledge(down.clone(), waiting, closed.clone());
        let link = Self {
            down,
            due,
            closed,
            worker: None,
        };
        (link, pump)
    }

    /// The registration was taken.
    pub(crate) fn welcome(&mut self, worker: WorkerId, terms: SessionTerms) -> Result<(), ()> {
        self.worker = Some(worker);
        let welcome = pb::Welcome {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            heartbeat_interval: Some(duration_from_ms(terms.heartbeat)),
            lease: Some(duration_from_ms(terms.lease)),
        };
        self.put(pb::SessionResponse {
            message: Some(pb::session_response::Message::Welcome(welcome)),
        })
    }

    /// Sends a command; an acknowledgement waits for `files`.
    pub(crate) fn send(&self, command: &Command, files: impl FnOnce() -> Vec<Wait>) -> Result<(), ()> {
        match command {
            Command::Acknowledge { up_to } => {
                let files = files();
                // A newer one stands for all before it.
                self.due.send_replace(Due { up_to: *up_to, files });
                Ok(())
            }
            other => self.put(command_to_pb(other)),
        }
    }

    /// Sends an order for a fault; without room it isn't sent.
    pub(crate) fn order(&self, order: &FaultOrder) -> Result<(), ()> {
        self.put(order_to_pb(order))
    }

    fn put(&self, message: pb::SessionResponse) -> Result<(), ()> {
        self.down.try_send(Ok(message)).map_err(|_| ())
    }

    /// Tells the worker why and ends the connection.
    pub(crate) fn close(self, error: ApiError) {
        // Without room the worker sees the stream end without a reason.
        let _ = self.down.try_send(Err(error.into()));
        self.closed.cancel();
    }
}

async fn acknowledge(down: mpsc::Sender<Down>, mut due: watch::Receiver<Due>, closed: CancellationToken) {
    let pump = async {
        while due.changed().await.is_ok() {
            let Due { up_to, files } = due.borrow_and_update().clone();
            for file in files {
                file.wait().await;
            }
            if down
                .send(Ok(command_to_pb(&Command::Acknowledge { up_to })))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = closed.cancelled() => {}
        () = pump => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Wait;

    fn stop() -> Command {
        Command::Stop {
            job: rekindle_types::JobId::new("job").unwrap(),
            epoch: rekindle_types::Epoch(1),
            reason: String::new(),
        }
    }

    #[test]
    fn a_worker_that_takes_nothing_is_told_from_one_that_does() {
        let (down, mut worker) = mpsc::channel(QUEUE);
        let (link, _pump) = Link::new(down, CancellationToken::new());
        for _ in 0..QUEUE {
            link.send(&stop(), Vec::new).unwrap();
        }
        assert!(link.send(&stop(), Vec::new).is_err());
        worker.try_recv().unwrap().unwrap();
        assert!(link.send(&stop(), Vec::new).is_ok());
    }

    #[tokio::test]
    async fn an_acknowledgement_waits_for_the_files_and_nothing_else_does() {
        let (down, mut worker) = mpsc::channel(QUEUE);
        let (link, pump) = Link::new(down, CancellationToken::new());
        tokio::spawn(pump);
        let (written, done) = watch::channel(0);
        let acknowledge = Command::Acknowledge { up_to: 5 };
        link.send(&acknowledge, || vec![Wait::new(done, 2)]).unwrap();
        for so_far in [0, 1] {
            written.send_replace(so_far);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(
                worker.try_recv().is_err(),
                "acknowledged after {so_far} of 2 lines"
            );
        }
        link.send(&stop(), Vec::new).unwrap();
        assert_eq!(worker.recv().await.unwrap().unwrap(), command_to_pb(&stop()));
        written.send_replace(2);
        assert_eq!(worker.recv().await.unwrap().unwrap(), command_to_pb(&acknowledge));
    }
}
