//! What goes wrong, drawn from the seed: where, when, how long.

use rekindle_types::Command;

use crate::PlantedBug;
use crate::world::{Down, Due, World};

/// A fault.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// A trainer is killed.
    TrainerCrash,
    /// A trainer of a gang stands still, and so the others wait.
    GangHang,
    /// A worker's process dies and comes back.
    WorkerCrash,
    /// A worker is asked to leave, and started again.
    WorkerLeaves,
    /// The coordinator dies and comes back.
    CoordinatorCrash,
    /// A connection breaks.
    Cut,
    /// A connection carries nothing for a while: short of a lease, or beyond it.
    Freeze { long: bool },
    /// The coordinator's wall clock jumps.
    ClockJump { back: bool },
    /// A committed checkpoint rots.
    Damage,
    /// A user cancels a job.
    Cancel,
    /// A worker gets a late copy of an order to start.
    LateStart,
}

impl World {
    pub(crate) fn draw_faults(&mut self) {
        let drawn = match self.rng.within(0, 9) {
            0 | 1 => 0,
            _ => u32::try_from(self.rng.within(1, 8)).unwrap_or(1),
        };
        // Half of the runs have only faults that no job may notice.
        let benign = self.rng.one_in(2);
        let count = self.config.faults.unwrap_or(drawn);
        for _ in 0..count {
            let fault = self.draw_fault(benign);
            let at = self.rng.within(500, self.config.fault_ms.max(501));
            self.at(at, Due::Fault(fault));
        }
        self.faults = count;
    }

    fn draw_fault(&mut self, benign: bool) -> Fault {
        let kinds = if benign { 6 } else { 15 };
        match self.rng.within(0, kinds) {
            0 | 1 => Fault::CoordinatorCrash,
            2 => Fault::Cut,
            3 => Fault::Freeze { long: false },
            4 => Fault::ClockJump {
                back: self.rng.one_in(2),
            },
            5 => Fault::LateStart,
            6 => Fault::Cancel,
            7 => Fault::GangHang,
            8 => Fault::Freeze { long: true },
            9 | 10 => Fault::WorkerCrash,
            11 => Fault::WorkerLeaves,
            12 => Fault::Damage,
            _ => Fault::TrainerCrash,
        }
    }

    pub(crate) fn inject(&mut self, fault: Fault) {
        self.note(&format!("fault {fault:?}"));
        match fault {
            Fault::TrainerCrash => self.crash_a_trainer(),
            Fault::GangHang => self.hang_a_gang(),
            Fault::Damage => self.damage_a_checkpoint(),
            Fault::WorkerCrash => {
                if let Some(worker) = self.rng.index(self.hosts.len()) {
                    self.crash_worker(worker);
                }
            }
            Fault::WorkerLeaves => {
                if let Some(worker) = self.rng.index(self.hosts.len()) {
                    self.blame_worker(worker);
                    let life = self.hosts[worker].life;
                    self.tell_worker(worker, life, rekindle_worker_core::Event::Shutdown);
                }
            }
            Fault::CoordinatorCrash => self.crash_coordinator(),
            Fault::Cut => {
                if let Some(conn) = self.some_conn() {
                    self.cut(conn);
                }
            }
            Fault::Freeze { long } => self.freeze(long),
            Fault::ClockJump { back } => {
                let by = self.rng.within(1, 100_000_000);
                let offset = self.clock_offset;
                self.clock_offset = if back {
                    offset.saturating_sub(by)
                } else {
                    offset + by
                };
            }
            Fault::Cancel => {
                if let Some(index) = self.rng.index(self.clients.len()) {
                    self.client_cancels(index);
                }
            }
            Fault::LateStart => self.repeat_a_start(),
        }
    }

    fn some_conn(&mut self) -> Option<u64> {
        let worker = self.rng.index(self.hosts.len())?;
        self.hosts[worker].conn
    }

    fn crash_a_trainer(&mut self) {
        let mut living = Vec::new();
        for (worker, host) in self.hosts.iter().enumerate() {
            let busy = host
                .processes
                .iter()
                .filter(|(_, process)| !process.finished && !process.stopping && !process.failed);
            living.extend(busy.map(|(key, _)| (worker, key.clone())));
        }
        let Some((worker, key)) = self.rng.index(living.len()).map(|index| living[index].clone()) else {
            return;
        };
        self.blame_trainer(worker, &key);
        // It may die in an update, before its state of the step is whole.
        let trains = self.hosts[worker]
            .processes
            .get(&key)
            .is_some_and(|process| process.training);
        let in_update = trains && self.rng.one_in(2);
        if in_update {
            self.tear(worker, &key);
        }
        let life = self.hosts[worker].life;
        self.dies(worker, life, &key, None, Some(11));
    }

    fn freeze(&mut self, long: bool) {
        let time = if long {
            self.rng.within(15_000, 25_000)
        } else {
            self.rng.within(100, 3_000)
        };
        let until = self.now + time;
        let Some(conn) = self.some_conn() else { return };
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.frozen_until = conn.frozen_until.max(until);
            let worker = conn.worker;
            if long {
                self.blame_worker(worker);
            }
        }
    }

    /// A copy of an order that the worker got before. Whoever has fences drops it, unless its trainer runs and it
    /// changes nothing.
    fn repeat_a_start(&mut self) {
        let Some(worker) = self.rng.index(self.hosts.len()) else {
            return;
        };
        let host = &self.hosts[worker];
        let Some(mut start) = self
            .rng
            .index(host.starts.len())
            .map(|index| host.starts[index].clone())
        else {
            return;
        };
        if self.config.planted == Some(PlantedBug::UnfencedEpochs) {
            start.plan.epoch = start.plan.epoch.next();
        }
        if let Some(conn) = self.hosts[worker].conn {
            self.send_down(conn, Down::Command(Command::Start(Box::new(start))));
        }
    }
}
