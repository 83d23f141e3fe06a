//! The worker's shell: one task owns the machine of `rekindle-worker-core`, everything else feeds it events and
//! carries out effects.
//!
//! ```text
//!   session task (gRPC) --events--> +-----------+ --effects--> session task, child tasks
//!   child tasks         --events--> |  machine  |
//!   timer, shutdown     --events--> +-----------+
//! ```
//!
//! Invariants
//! - WK-4 Events of a session that was dropped never reach the machine: every session has a generation, older ones
//!   are ignored.
//! - WK-5 Every child process is owned by one task, which reads all its output before it reports the exit; dropping
//!   it kills the child.

mod child;
mod lines;
mod session;
mod vault;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rekindle_worker_core::trainer_messages::ToTrainer;
use rekindle_worker_core::{Effect, Event, ExitReason, TrainerKey, Worker, WorkerConfig};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use child::Child;
use session::{Session, SessionOptions};
use vault::VaultFolder;

/// Events that wait for the machine.
const QUEUE: usize = 1024;

/// How a trainer process is started.
#[derive(Debug, Clone)]
pub struct TrainerProgram {
    /// The program, usually this one.
    pub program: PathBuf,
    /// Its arguments, usually `trainer` and how to log.
    pub arguments: Vec<OsString>,
}

/// Everything a worker needs to start.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Identity and limits.
    pub config: WorkerConfig,
    /// URL of the coordinator, `http://host:port` or `https://…`.
    pub coordinator: String,
    /// PEM certificate of the authority to trust, for `https`.
    pub tls_ca: Option<Vec<u8>>,
    /// How to start a trainer.
    pub trainer: TrainerProgram,
    /// Folder on a memory file system, for the state of trainers; none: a trainer that dies loses its state.
    pub shared_memory: Option<PathBuf>,
}

/// Why a worker ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The coordinator doesn't want it.
    #[error("{0}")]
    Refused(ExitReason),
    /// The URL or certificate can't be used.
    #[error("coordinator {url:?}: {why}")]
    Coordinator {
        /// The URL.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What reaches the machine's task.
enum Incoming {
    /// From the session of this generation.
    Session(u64, Event),
    /// From a child.
    Child(Event),
}

/// Runs the worker until `shutdown` (which ends its trainers first) or until the coordinator refuses it.
///
/// # Errors
/// [`WorkerError`]. Losing the coordinator is none: the worker tries again.
pub async fn serve(options: WorkerOptions, shutdown: CancellationToken) -> Result<(), WorkerError> {
    let endpoint = session::endpoint(&options)?;
    let (sender, mut incoming) = mpsc::channel(QUEUE);
    let vault = vault(&options);
    let kept = vault.as_ref().map(VaultFolder::jobs).unwrap_or_default();
    let config = WorkerConfig {
        kept,
        ..options.config.clone()
    };
    let mut shell = Shell {
        machine: Worker::new(config),
        worker: options.config.worker.to_string(),
        trainer: options.trainer,
        endpoint,
        session: None,
        generation: 0,
        children: BTreeMap::new(),
        edited: BTreeMap::new(),
        vault,
        sender,
        start: Instant::now(),
        left: None,
    };
    let mut asked = false;
    shell.handle(Event::Tick);
    while shell.left.is_none() {
        let timer = shell
            .machine
            .next_deadline()
            .map(|at| shell.start + Duration::from_millis(at));
        let event = tokio::select! {
            some = incoming.recv() => match some {
                Some(Incoming::Session(generation, event)) if generation == shell.generation => event,
                Some(Incoming::Session(..)) => continue,
                Some(Incoming::Child(event)) => event,
                None => Event::Tick,
            },
            () = sleep_until(timer) => Event::Tick,
            () = shutdown.cancelled(), if !asked => { asked = true; Event::Shutdown }
        };
        shell.handle(event);
    }
    match shell.left {
        Some(reason @ ExitReason::Refused { .. }) => Err(WorkerError::Refused(reason)),
        _ => Ok(()),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Ends this process as SIGKILL from outside would: nothing is cleaned up, the trainers see their stdin end.
fn kill_self() {
    // SAFETY: neither call has memory effects; the pid is this process's own.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

fn vault(options: &WorkerOptions) -> Option<VaultFolder> {
    let (name, incarnation) = (options.config.worker.as_str(), options.config.incarnation);
    let parent = options.shared_memory.as_deref()?;
    VaultFolder::make(parent, &options.coordinator, name, incarnation)
}

struct Shell {
    machine: Worker,
    worker: String,
    trainer: TrainerProgram,
    endpoint: SessionOptions,
    session: Option<Session>,
    generation: u64,
    children: BTreeMap<TrainerKey, Child>,
    /// What processes were started as that were edited since, and what they are now: the tasks that listen to them
    /// know the former.
    edited: BTreeMap<TrainerKey, TrainerKey>,
    vault: Option<VaultFolder>,
    sender: mpsc::Sender<Incoming>,
    start: Instant,
    left: Option<ExitReason>,
}

impl Shell {
    /// Gives the machine an event and does what it says, until nothing follows from it any more.
    fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([self.of_edited(event)]);
        while let Some(event) = events.pop_front() {
            if let Event::Exited { key, exit } = &event {
                tracing::info!(trainer = %key, code = exit.code, signal = exit.signal, "trainer ended");
                self.children.remove(key);
            }
            if let Event::Command(
                rekindle_types::Command::Stop { job, epoch, reason }
                | rekindle_types::Command::Halt { job, epoch, reason },
            ) = &event
            {
                tracing::info!(%job, %epoch, reason, "told to end the job's trainers of that epoch");
            }
            let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
            for effect in self.machine.handle(now, event) {
                events.extend(self.act(effect));
            }
        }
    }

    /// What a process says that was edited, as what it is now.
    fn of_edited(&mut self, mut event: Event) -> Event {
        if let Event::FromTrainer { key, .. } | Event::Exited { key, .. } = &mut event
            && let Some(now) = self.edited.get(key).cloned()
        {
            let started_as = std::mem::replace(key, now);
            if matches!(event, Event::Exited { .. }) {
                self.edited.remove(&started_as);
            }
        }
        event
    }

    /// A process is another trainer from now on.
    fn edit(&mut self, from: &TrainerKey, key: TrainerKey, message: ToTrainer) {
        let Some(child) = self.children.remove(from) else {
            return;
        };
        child.tell(message);
        self.edited.insert(child.started_as().clone(), key.clone());
        tracing::info!(trainer = %key, was = %from, pid = child.pid(), "trainer goes over to another epoch");
        self.children.insert(key, child);
    }

    /// Carries out one effect; an event may follow at once.
    fn act(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::OpenSession { registration } => {
                self.generation += 1;
                let (generation, sender) = (self.generation, self.sender.clone());
                self.session = Some(Session::open(
                    self.endpoint.clone(),
                    *registration,
                    generation,
                    sender,
                ));
            }
            Effect::CloseSession => {
                self.generation += 1;
                self.session = None;
            }
            Effect::Send { report } => return self.tell(|session| session.report(&report)),
            Effect::Heartbeat => return self.tell(Session::heartbeat),
            Effect::Drain { grace } => return self.tell(|session| session.drain(grace)),
            Effect::SpawnTrainer {
                key,
                start,
                listen_host,
                threads,
                device,
            } => {
                let folder = start.spec.job.folder();
                let log = crate::output::trainer_log(folder, &self.worker, key.rank.0, key.epoch.0);
                let vault = self.vault.as_ref();
                let begin = ToTrainer::Begin {
                    start,
                    listen_host,
                    threads,
                    device,
                    vault: vault.map(|vault| vault.path().display().to_string()),
                };
                return Some(self.spawn(key, &log, begin));
            }
            Effect::EditTrainer { from, key, start } => self.edit(&from, key, ToTrainer::Edit { start }),
            Effect::ToTrainer { key, message } => {
                if let Some(child) = self.children.get(&key) {
                    child.tell(message);
                }
            }
            Effect::Terminate { key } => {
                if let Some(child) = self.children.get_mut(&key) {
                    child.terminate();
                }
            }
            Effect::Kill { key } => {
                if let Some(child) = self.children.get(&key) {
                    child.kill();
                }
            }
            Effect::Suspend { key } => self.hold(&key, true),
            Effect::Resume { key } => self.hold(&key, false),
            Effect::AnswerFault { number, refusal } => {
                return self.tell(|session| session.fault_answer(number, refusal));
            }
            Effect::KillSelf => kill_self(),
            Effect::Forget { job } => {
                if let Some(vault) = &self.vault {
                    vault.forget(&job);
                }
            }
            Effect::Warn { message } => tracing::warn!("{message}"),
            Effect::Exit(reason) => self.left = Some(reason),
        }
        None
    }

    fn hold(&self, key: &TrainerKey, held: bool) {
        if let Some(child) = self.children.get(key) {
            child.hold(held);
        }
    }

    /// Says something through the session; a session that can't take it is over.
    fn tell(&mut self, say: impl FnOnce(&Session) -> Result<(), String>) -> Option<Event> {
        let outcome = say(self.session.as_ref()?);
        let message = outcome.err()?;
        self.generation += 1;
        self.session = None;
        Some(Event::SessionClosed { message })
    }

    fn spawn(&mut self, key: TrainerKey, log: &Path, begin: ToTrainer) -> Event {
        match Child::spawn(&self.trainer, key.clone(), log, self.sender.clone()) {
            Ok(child) => {
                tracing::info!(trainer = %key, pid = child.pid(), log = %log.display(), "trainer started");
                child.tell(begin);
                self.children.insert(key.clone(), child);
                Event::Spawned { key }
            }
            Err(error) => Event::SpawnFailed {
                key,
                message: error.to_string(),
            },
        }
    }
}
