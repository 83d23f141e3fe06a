//! Trainers that outlive their epoch: they halt where a peer is gone or they are told to, and go over to the next
//! plan. Some can't.

use rekindle_types::{Failure, FailureClass, RankId, StartTrainer};
use rekindle_worker_core::TrainerKey;
use rekindle_worker_core::trainer_messages::FromTrainer;

use crate::world::{Due, Process, World};

/// What a trainer says that met a broken connection.
fn reset(rank: RankId) -> Failure {
    Failure {
        class: FailureClass::Network,
        rank: Some(rank),
        worker: None,
        message: "connection reset by a peer".to_owned(),
    }
}

impl World {
    /// A process goes over to another epoch. Now and then it dies of it, or doesn't get ready.
    pub(crate) fn edits(&mut self, worker: usize, from: &TrainerKey, key: TrainerKey, start: StartTrainer) {
        let Some(before) = self.hosts[worker].processes.remove(from) else {
            return;
        };
        self.note(&format!("w{worker} edits {from} to {key}"));
        if !before.halted || before.stopping {
            self.violate("SM-3", format!("w{worker} edits {from}, which doesn't wait"));
        }
        self.check_spawn(worker, &key, &start);
        let life = self.hosts[worker].life;
        self.hosts[worker]
            .processes
            .insert(key.clone(), Process::new(start));
        let load = self.rng.within(2, 200) * self.hosts[worker].slowness;
        self.edits.0 += 1;
        match (self.rng.one_in(10), self.rng.one_in(12)) {
            (true, _) => self.die_later(worker, &key, load, 1),
            (_, false) => return self.after(load, Due::Loaded { worker, life, key }),
            _ => {}
        }
        self.edits.1 += 1;
    }

    /// A trainer gives its epoch up.
    fn halts(&mut self, worker: usize, key: &TrainerKey, delay: u64) {
        if let Some(process) = self.hosts[worker].processes.get_mut(key) {
            (process.halted, process.training) = (true, false);
        }
        let failure = reset(key.rank);
        self.says_after(delay, worker, key, FromTrainer::Halted { failure });
    }

    /// A trainer is told to give its epoch up. Now and then one can't, for longer than it is waited for.
    pub(crate) fn told_to_halt(&mut self, worker: usize, key: &TrainerKey) {
        let Some(process) = self.hosts[worker].processes.get(key).cloned() else {
            return;
        };
        if process.halted || process.finished || process.failed {
            return;
        }
        let gang = self.gangs.entry((key.job.clone(), key.epoch)).or_default();
        gang.broken |= !gang.complete;
        if gang.hung == Some(key.rank) || self.rng.one_in(12) {
            return;
        }
        let delay = self.rng.within(1, 300);
        if process.training {
            self.halts(worker, key, delay);
        } else {
            self.terminate(worker, key);
        }
    }

    /// A trainer sees that a peer is gone.
    pub(crate) fn peer_lost(&mut self, worker: usize, life: u32, key: &TrainerKey) {
        let Some(process) = self.process(worker, life, key) else {
            return;
        };
        if process.stopping || process.finished || process.failed || process.halted {
            return;
        }
        if !self.rng.one_in(8) {
            self.halts(worker, key, 1);
            return;
        }
        let Some(process) = self.process(worker, life, key) else {
            return;
        };
        process.failed = true;
        let failure = reset(key.rank);
        self.says(worker, key, FromTrainer::Failed(failure));
        let delay = self.rng.within(2, 100);
        self.die_later(worker, key, delay, 1);
    }
}
