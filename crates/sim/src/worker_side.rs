//! The workers' shells in the virtual world: start, crash, effects.

use std::collections::BTreeSet;

use rekindle_types::{JobId, WorkerId};
use rekindle_worker_core::{Effect, Event, Worker, WorkerConfig};

use crate::world::{Due, Host, Up, World};

/// The name of a worker.
pub(crate) fn name_of(worker: usize) -> WorkerId {
    WorkerId::new(format!("w{worker}")).expect("letters and digits make a good id")
}

impl World {
    pub(crate) fn make_hosts(&mut self) {
        for worker in 0..self.config.workers as usize {
            let slow = self.rng.one_in(6);
            let slowness = if slow { self.rng.within(3, 8) } else { 1 };
            let slots = if self.rng.one_in(2) { 2 } else { 1 };
            self.hosts.push(Host {
                machine: None,
                life: 0,
                version: 0,
                conn: None,
                processes: std::collections::BTreeMap::new(),
                memory: crate::memory::Memory::default(),
                saving: std::collections::BTreeMap::new(),
                slowness,
                slots,
                starts: Vec::new(),
            });
            let delay = self.rng.within(0, 1_500);
            self.after(delay, Due::WorkerStart { worker });
        }
    }

    pub(crate) fn start_worker(&mut self, worker: usize) {
        if self.hosts[worker].machine.is_some() {
            return;
        }
        let seed = self.rng.next();
        let host = &mut self.hosts[worker];
        host.life += 1;
        let kept: BTreeSet<JobId> = host.memory.jobs();
        let config = WorkerConfig {
            kept: kept.into_iter().collect(),
            slots: host.slots,
            jitter_seed: seed,
            // As the coordinator's limits, shorter than usual: another process has to be ready within those.
            edit_limit: 5_000,
            ..WorkerConfig::new(name_of(worker), u64::from(host.life))
        };
        host.machine = Some(Worker::new(config));
        let life = host.life;
        self.note(&format!("w{worker} starts, life {life}"));
        self.tell_worker(worker, life, Event::Tick);
    }

    /// The worker's process dies, and its trainers with it; its machine as well every other time, and then what is in
    /// memory is gone.
    pub(crate) fn crash_worker(&mut self, worker: usize) {
        if self.hosts[worker].machine.take().is_none() {
            return;
        }
        self.note(&format!("w{worker} crashes"));
        self.blame_worker(worker);
        let processes = std::mem::take(&mut self.hosts[worker].processes);
        for (key, process) in processes {
            self.gang_lost(&key, &process);
        }
        self.hosts[worker].starts.clear();
        if self.rng.one_in(2) {
            self.hosts[worker].memory = crate::memory::Memory::default();
        }
        if let Some(conn) = self.hosts[worker].conn.take() {
            self.cut(conn);
        }
        let down = self.rng.within(200, 15_000);
        self.after(down, Due::WorkerStart { worker });
    }

    pub(crate) fn worker_tick(&mut self, worker: usize, life: u32, version: u64) {
        if self.hosts[worker].version == version {
            self.tell_worker(worker, life, Event::Tick);
        }
    }

    pub(crate) fn tell_worker(&mut self, worker: usize, life: u32, event: Event) {
        let now = self.now;
        let host = &mut self.hosts[worker];
        if host.life != life {
            return;
        }
        let Some(machine) = &mut host.machine else { return };
        let effects = machine.handle(now, event);
        let next = machine.next_deadline();
        host.version += 1;
        let version = host.version;
        if let Some(next) = next {
            let delay = next.saturating_sub(now).max(1);
            self.after(
                delay,
                Due::WorkerTick {
                    worker,
                    life,
                    version,
                },
            );
        }
        for effect in effects {
            self.do_worker_effect(worker, effect);
        }
    }

    fn do_worker_effect(&mut self, worker: usize, effect: Effect) {
        match effect {
            Effect::OpenSession { registration } => {
                if let Some(old) = self.hosts[worker].conn.take() {
                    self.cut(old);
                }
                let conn = self.connect(worker);
                self.hosts[worker].conn = Some(conn);
                self.send_up(conn, Up::Register(registration));
            }
            Effect::CloseSession => {
                if let Some(conn) = self.hosts[worker].conn.take() {
                    self.cut(conn);
                }
            }
            Effect::Send { report } => self.worker_says(worker, Up::Report(report)),
            Effect::Heartbeat => self.worker_says(worker, Up::Heartbeat),
            Effect::Drain { grace } => self.worker_says(worker, Up::Draining(grace)),
            Effect::SpawnTrainer { key, start, .. } => self.spawn(worker, key, *start),
            Effect::EditTrainer { from, key, start } => self.edits(worker, &from, key, *start),
            Effect::ToTrainer { key, message } => self.tell_trainer(worker, &key, message),
            Effect::Terminate { key } => self.terminate(worker, &key),
            Effect::Kill { key } => {
                let life = self.hosts[worker].life;
                self.dies(worker, life, &key, None, Some(9));
            }
            Effect::Forget { job } => self.hosts[worker].memory.forget(&job),
            Effect::Warn { .. } => {}
            // Faults come from the world here, never by order.
            Effect::Suspend { .. }
            | Effect::Resume { .. }
            | Effect::AnswerFault { .. }
            | Effect::KillSelf => {}
            Effect::Exit(reason) => {
                self.note(&format!("w{worker} leaves: {reason}"));
                self.hosts[worker].machine = None;
                self.hosts[worker].starts.clear();
                self.hosts[worker].memory = crate::memory::Memory::default();
                let down = self.rng.within(200, 2_000);
                self.after(down, Due::WorkerStart { worker });
            }
        }
    }

    fn worker_says(&mut self, worker: usize, message: Up) {
        if let Some(conn) = self.hosts[worker].conn {
            self.send_up(conn, message);
        }
    }
}
