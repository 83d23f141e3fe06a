//! A coordinator on a free port of loopback, and a worker that only speaks the session protocol.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rekindle_client::{Client, Options};
use rekindle_coordinator::{CoordinatorConfig, ServeError, bind};
use rekindle_proto::pb::worker::v1 as pb;
use rekindle_proto::pb::worker::v1::worker_service_client::WorkerServiceClient;
use rekindle_types::{
    Command, DeviceId, Epoch, JobId, NumberedReport, RankId, Registration, Report, StartTrainer, StepReport,
    TrainerPhase, TrainerStatus, WorkerId,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

/// The machines these tests run on may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

/// A coordinator with its own runtime, so that it can be killed.
pub struct Running {
    pub address: SocketAddr,
    state: PathBuf,
    runtime: Runtime,
    shutdown: CancellationToken,
    end: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    pub async fn start(state: &Path) -> Self {
        Self::start_at(state, "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(state: &Path, listen: SocketAddr) -> Self {
        Self::start_with(CoordinatorConfig::new(listen, state)).await
    }

    pub async fn start_with(config: CoordinatorConfig) -> Self {
        let runtime = Runtime::new().unwrap();
        let shutdown = CancellationToken::new();
        // The port and the journal of a coordinator that was just killed are free a moment later.
        let bound = soon("a free port", async {
            loop {
                let config = config.clone();
                match runtime.spawn(bind(config)).await.unwrap() {
                    Ok(bound) => return bound,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await;
        let address = bound.address();
        let end = runtime.spawn(bound.run(shutdown.clone()));
        Self {
            address,
            state: config.state_dir,
            runtime,
            shutdown,
            end,
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.address.to_string(), Options::default())
            .await
            .unwrap()
    }

    /// Ends it in order.
    pub async fn stop(self) {
        self.shutdown.cancel();
        soon("an orderly end", self.end).await.unwrap().unwrap();
        self.runtime.shutdown_background();
    }

    /// Ends it without any order: every task is dropped where it is.
    pub async fn kill(self) {
        let runtime = self.runtime;
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10)))
            .await
            .unwrap();
        // A killed process leaves its journal at once; here its thread takes a moment.
        let journal = self.state.join("journal.redb");
        soon("a free journal", async {
            while rekindle_store::Journal::open(&journal).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// A job file of 4 layers on two stages with one lane.
pub fn job_file(output: &Path, steps: u64) -> String {
    let output = output.display();
    format!(
        r#"
[job]
name = "demo"
output = "{output}"
[model]
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
[data]
train = ["/tmp/a.txt"]
seq_len = 32
[training]
steps = {steps}
global_batch = 8
micro_batch = 2
[optimizer]
lr = 3e-4
[parallelism]
pipeline = 2
"#
    )
}

pub fn step(number: u64, epoch: Epoch) -> StepReport {
    StepReport {
        step: number,
        // Not exactly representable in few digits.
        loss: 5.5 / (number as f64 + 0.1),
        grad_norm: (number as f64).sqrt(),
        lr: 3e-4,
        tokens: 256,
        step_seconds: 0.012_345_678,
        epoch,
        data_digest: format!("{number:032x}"),
        state_digest: number.is_multiple_of(2).then(|| "f".repeat(32)),
        val_loss: None,
        stage_norms: Vec::new(),
    }
}

/// A worker without trainers.
pub struct FakeWorker {
    up: mpsc::Sender<pb::SessionRequest>,
    down: Streaming<pb::SessionResponse>,
    registration: Registration,
    number: u64,
    pub acknowledged: u64,
}

impl FakeWorker {
    pub async fn connect(address: SocketAddr, name: &str, slots: u32) -> Self {
        let registration = Registration {
            worker: WorkerId::new(name).unwrap(),
            incarnation: 7,
            version: "test".to_owned(),
            data_host: "127.0.0.1".to_owned(),
            threads: 1,
            device: DeviceId::Cpu,
            slots,
            memory_bytes: 0,
            kept: Vec::new(),
            trainers: Vec::new(),
        };
        Self::register(address, registration, 0).await
    }

    async fn register(address: SocketAddr, registration: Registration, number: u64) -> Self {
        let (up, queue) = mpsc::channel(64);
        let first = pb::session_request::Message::Registration((&registration).into());
        up.send(message(first)).await.unwrap();
        let mut client = soon("a connection", async {
            loop {
                match WorkerServiceClient::connect(format!("http://{address}")).await {
                    Ok(client) => return client,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await;
        let down = client
            .session(ReceiverStream::new(queue))
            .await
            .unwrap()
            .into_inner();
        let mut worker = Self {
            up,
            down,
            registration,
            number,
            acknowledged: 0,
        };
        let welcome = worker.message().await.message;
        assert!(
            matches!(welcome, Some(pb::session_response::Message::Welcome(_))),
            "{welcome:?}"
        );
        worker
    }

    /// Connects again with trainers that went on in between.
    pub async fn reconnect(mut self, address: SocketAddr, trainers: Vec<TrainerStatus>) -> Self {
        self.registration.trainers = trainers;
        Self::register(address, self.registration, self.number).await
    }

    async fn message(&mut self) -> pb::SessionResponse {
        soon("a command", self.down.message())
            .await
            .unwrap()
            .expect("the session goes on")
    }

    /// The next command that isn't an acknowledgement.
    pub async fn command(&mut self) -> Command {
        loop {
            match Command::try_from(self.message().await).unwrap() {
                Command::Acknowledge { up_to } => self.acknowledged = up_to,
                other => return other,
            }
        }
    }

    pub async fn acknowledged(&mut self, number: u64) {
        while self.acknowledged < number {
            match Command::try_from(self.message().await).unwrap() {
                Command::Acknowledge { up_to } => self.acknowledged = up_to,
                // Comes once for each of our ranks.
                Command::Connect { .. } => {}
                other => panic!("{other:?} instead of an acknowledgement"),
            }
        }
    }

    /// Sends a report; its number.
    pub async fn report(&mut self, job: &JobId, epoch: Epoch, rank: u32, report: Report) -> u64 {
        self.number += 1;
        self.report_again(self.number, job, epoch, rank, report).await
    }

    pub async fn report_again(
        &mut self,
        number: u64,
        job: &JobId,
        epoch: Epoch,
        rank: u32,
        report: Report,
    ) -> u64 {
        let report = NumberedReport {
            number,
            job: job.clone(),
            epoch,
            rank: RankId(rank),
            report,
        };
        let report = pb::session_request::Message::Report((&report).into());
        self.up.send(message(report)).await.unwrap();
        number
    }

    /// The next command, if one comes in time. A part of a message may be lost otherwise: for idle connections only.
    pub async fn command_within(&mut self, limit: Duration) -> Option<Command> {
        let message = tokio::time::timeout(limit, self.down.message()).await.ok()?;
        let message = message.unwrap().expect("the session goes on");
        Some(Command::try_from(message).unwrap())
    }

    pub async fn heartbeat(&mut self) {
        let heartbeat = pb::session_request::Message::Heartbeat(pb::Heartbeat {});
        self.up.send(message(heartbeat)).await.unwrap();
    }

    /// Takes the start of `ranks` trainers, says that they are ready, takes the word to connect.
    pub async fn bring_up(&mut self, ranks: u32) -> (JobId, Epoch) {
        let Command::Start(first) = self.command().await else {
            panic!("a start is due");
        };
        self.go_on(*first, ranks).await
    }

    /// [`FakeWorker::bring_up`] after the first start.
    pub async fn go_on(&mut self, first: StartTrainer, ranks: u32) -> (JobId, Epoch) {
        let (job, epoch) = (first.plan.job.clone(), first.plan.epoch);
        let mut rank = first.rank.0;
        for started in 1..=ranks {
            let data_address = format!("127.0.0.1:{}", 5000 + rank);
            self.report(
                &job,
                epoch,
                rank,
                Report::Ready {
                    data_address,
                    in_memory: rekindle_types::InMemory::default(),
                },
            )
            .await;
            if started == ranks {
                break;
            }
            let Command::Start(next) = self.command().await else {
                panic!("a start is due");
            };
            rank = next.rank.0;
        }
        let Command::Connect { peers, .. } = self.command().await else {
            panic!("a connect is due");
        };
        assert_eq!(peers.len(), ranks as usize);
        (job, epoch)
    }
}

pub fn trainer(job: &JobId, epoch: Epoch, rank: u32, step: u64) -> TrainerStatus {
    TrainerStatus {
        in_memory: rekindle_types::InMemory::default(),
        job: job.clone(),
        epoch,
        rank: RankId(rank),
        phase: TrainerPhase::Training,
        data_address: Some(format!("127.0.0.1:{}", 5000 + rank)),
        step,
    }
}

fn message(message: pb::session_request::Message) -> pb::SessionRequest {
    pb::SessionRequest {
        message: Some(message),
    }
}

/// The values of a file of JSON lines.
pub fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
