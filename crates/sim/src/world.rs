//! The virtual world: a queue of events by time, the processes, the connections, and the loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rekindle_coordinator_core::{Commit, Coordinator, Effect, Millis, Record, Seq, StartSearch};
use rekindle_types::{Epoch, JobId, NumberedReport, RankId, Refill, Registration, StartTrainer};
use rekindle_worker_core::trainer_messages::FromTrainer;
use rekindle_worker_core::{TrainerKey, Worker};

use crate::SimConfig;
use crate::clients::Client;
use crate::faults::Fault;
use crate::invariants::Ledger;
use crate::memory::Memory;
use crate::report::{SimReport, Trace, Violation};
use crate::rng::Rng;
use crate::storage::Storage;

/// From a worker to the coordinator.
#[derive(Debug, Clone)]
pub(crate) enum Up {
    Register(Box<Registration>),
    Report(Box<NumberedReport>),
    Heartbeat,
    Draining(Millis),
    Gone,
}

/// From the coordinator to a worker.
#[derive(Debug, Clone)]
pub(crate) enum Down {
    Opened(Millis),
    Refused { message: String, fatal: bool },
    Command(rekindle_types::Command),
    Gone,
}

/// Something that will happen.
#[derive(Debug, Clone)]
pub(crate) enum Due {
    CoordinatorTick {
        life: u32,
        version: u64,
    },
    CoordinatorStart,
    Persisted {
        life: u32,
        seq: Seq,
        record: Box<Record>,
    },
    ToCoordinator {
        conn: u64,
        message: Up,
    },
    ToWorker {
        conn: u64,
        message: Down,
    },
    WorkerTick {
        worker: usize,
        life: u32,
        version: u64,
    },
    WorkerStart {
        worker: usize,
    },
    Spawned {
        worker: usize,
        life: u32,
        key: TrainerKey,
    },
    Says {
        worker: usize,
        life: u32,
        key: TrainerKey,
        message: FromTrainer,
    },
    Loaded {
        worker: usize,
        life: u32,
        key: TrainerKey,
    },
    PeerLost {
        worker: usize,
        life: u32,
        key: TrainerKey,
    },
    Dies {
        worker: usize,
        life: u32,
        key: TrainerKey,
        code: Option<i32>,
        signal: Option<i32>,
    },
    GangStep {
        job: JobId,
        epoch: Epoch,
    },
    GangSpeaks {
        job: JobId,
        epoch: Epoch,
    },
    Searched {
        life: u32,
        job: JobId,
        search: StartSearch,
        refused: BTreeSet<String>,
    },
    Committed {
        life: u32,
        commit: Box<Commit>,
    },
    Client {
        index: usize,
    },
    Cancel {
        index: usize,
    },
    Fault(Fault),
}

/// A connection between a worker's life and a coordinator's life.
#[derive(Debug, Clone)]
pub(crate) struct Conn {
    pub(crate) worker: usize,
    pub(crate) worker_life: u32,
    pub(crate) coordinator_life: u32,
    pub(crate) cut: bool,
    pub(crate) up_at: u64,
    pub(crate) down_at: u64,
    pub(crate) frozen_until: u64,
}

/// A trainer's process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) start: StartTrainer,
    pub(crate) training: bool,
    pub(crate) stopping: bool,
    pub(crate) finished: bool,
    pub(crate) failed: bool,
    /// It waits for the next epoch.
    pub(crate) halted: bool,
}

impl Process {
    pub(crate) fn new(start: StartTrainer) -> Self {
        Self {
            start,
            training: false,
            stopping: false,
            finished: false,
            failed: false,
            halted: false,
        }
    }
}

/// A worker's machine and process.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) machine: Option<Worker>,
    pub(crate) life: u32,
    pub(crate) version: u64,
    pub(crate) conn: Option<u64>,
    pub(crate) processes: BTreeMap<TrainerKey, Process>,
    /// What trainers left in its memory.
    pub(crate) memory: Memory,
    /// When each trainer's last checkpoint is durable.
    pub(crate) saving: BTreeMap<TrainerKey, u64>,
    /// How many times slower than the others.
    pub(crate) slowness: u64,
    pub(crate) slots: u32,
    /// Start orders it got, for late copies.
    pub(crate) starts: Vec<StartTrainer>,
}

/// The trainers of a plan, as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gang {
    pub(crate) connected: BTreeSet<RankId>,
    pub(crate) step: u64,
    pub(crate) broken: bool,
    /// The rank that stands still.
    pub(crate) hung: Option<RankId>,
    /// Save after the next step, whatever the cadence says.
    pub(crate) save: bool,
    /// Save the state it starts from.
    pub(crate) owed: bool,
    pub(crate) complete: bool,
    /// The step it started from.
    pub(crate) from: u64,
    /// Ranks that get their state from others.
    pub(crate) refills: BTreeMap<RankId, Refill>,
    /// Ranks that have it, and whose guards do.
    pub(crate) filled: BTreeSet<RankId>,
}

/// Everything.
pub(crate) struct World {
    pub(crate) config: SimConfig,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    queue: BTreeMap<(u64, u64), Due>,
    order: u64,
    pub(crate) trace: Trace,
    pub(crate) coordinator: Option<Coordinator>,
    pub(crate) coordinator_life: u32,
    pub(crate) coordinator_version: u64,
    /// What the coordinator's wall clock shows beyond the virtual time.
    pub(crate) clock_offset: u64,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) writing: bool,
    pub(crate) journal: Vec<(Seq, Record)>,
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) gangs: BTreeMap<(JobId, Epoch), Gang>,
    pub(crate) clients: Vec<Client>,
    pub(crate) storage: Storage,
    pub(crate) ledger: Ledger,
    /// When each worker was last made to be lost.
    pub(crate) ledger_lost: BTreeMap<rekindle_types::WorkerId, u64>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) faults: u32,
    pub(crate) edits: (u32, u32),
    events: u64,
}

impl World {
    pub(crate) fn new(config: SimConfig) -> Self {
        let rng = Rng::new(config.seed);
        let mut world = Self {
            rng,
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            trace: Trace::new(config.trace),
            coordinator: None,
            coordinator_life: 0,
            coordinator_version: 0,
            clock_offset: 1_000_000_000,
            effects: VecDeque::new(),
            writing: false,
            journal: Vec::new(),
            conns: BTreeMap::new(),
            hosts: Vec::new(),
            gangs: BTreeMap::new(),
            clients: Vec::new(),
            storage: Storage::default(),
            ledger: Ledger::default(),
            ledger_lost: BTreeMap::new(),
            violations: Vec::new(),
            faults: 0,
            edits: (0, 0),
            events: 0,
            config,
        };
        world.start_coordinator();
        world.make_hosts();
        world.make_clients();
        world.draw_faults();
        world
    }

    /// Puts `due` into the queue, `delay` milliseconds from now.
    pub(crate) fn after(&mut self, delay: u64, due: Due) {
        self.at(self.now + delay, due);
    }

    pub(crate) fn at(&mut self, time: u64, due: Due) {
        self.order += 1;
        self.queue.insert((time.max(self.now), self.order), due);
    }

    pub(crate) fn violate(&mut self, rule: &'static str, detail: String) {
        let at = self.now;
        self.trace.line(at, &format!("VIOLATION {rule} {detail}"));
        self.violations.push(Violation { rule, at, detail });
    }

    pub(crate) fn note(&mut self, text: &str) {
        self.trace.line(self.now, text);
    }

    /// Runs until everything is settled, a rule is broken, or the limit is reached.
    pub(crate) fn run(mut self) -> SimReport {
        let mut settled_at = None;
        while self.violations.is_empty() {
            let Some(((time, _), due)) = self.queue.pop_first() else {
                break;
            };
            self.now = time;
            self.events += 1;
            self.step(due);
            if self.settled() {
                // Long enough for stray trainers to be found and stopped.
                let since = *settled_at.get_or_insert(self.now);
                if self.now >= since + 60_000 {
                    break;
                }
            }
            if self.now > self.config.limit_ms {
                break;
            }
        }
        if self.violations.is_empty() {
            self.check_end();
        }
        self.report()
    }

    fn report(self) -> SimReport {
        let jobs = self.ledger.outcomes();
        SimReport {
            seed: self.config.seed,
            trace_hash: self.trace.hash,
            events: self.events,
            virtual_ms: self.now,
            jobs,
            faults: self.faults,
            edits: self.edits,
            records: self.journal.len() as u64,
            coordinator_starts: self.coordinator_life,
            violations: self.violations,
            trace: self.trace.lines,
        }
    }

    /// All clients have their answer, all jobs their end, no more faults to come.
    fn settled(&self) -> bool {
        self.now > self.config.fault_ms && self.clients.iter().all(Client::is_done) && self.ledger.all_ended()
    }

    fn step(&mut self, due: Due) {
        match due {
            Due::CoordinatorTick { life, version } => self.coordinator_tick(life, version),
            Due::CoordinatorStart => self.start_coordinator(),
            Due::Persisted { life, seq, record } => self.persisted(life, seq, *record),
            Due::ToCoordinator { conn, message } => self.deliver_up(conn, message),
            Due::ToWorker { conn, message } => self.deliver_down(conn, message),
            Due::WorkerTick {
                worker,
                life,
                version,
            } => self.worker_tick(worker, life, version),
            Due::WorkerStart { worker } => self.start_worker(worker),
            Due::Spawned { worker, life, key } => {
                self.tell_worker(worker, life, rekindle_worker_core::Event::Spawned { key });
            }
            Due::Says {
                worker,
                life,
                key,
                message,
            } => self.said(worker, life, key, message),
            Due::Loaded { worker, life, key } => self.loaded(worker, life, &key),
            Due::PeerLost { worker, life, key } => self.peer_lost(worker, life, &key),
            Due::Dies {
                worker,
                life,
                key,
                code,
                signal,
            } => self.dies(worker, life, &key, code, signal),
            Due::GangStep { job, epoch } => self.gang_step(&job, epoch),
            Due::GangSpeaks { job, epoch } => self.gang_speaks(&job, epoch),
            Due::Searched {
                life,
                job,
                search,
                refused,
            } => self.searched(life, job, search, &refused),
            Due::Committed { life, commit } => self.committed(life, &commit),
            Due::Client { index } => self.client_acts(index),
            Due::Cancel { index } => self.client_cancels(index),
            Due::Fault(fault) => self.inject(fault),
        }
    }
}
