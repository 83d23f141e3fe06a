//! Trainers as scripts: load, meet, step together, finish; when one dies its peers see a broken connection, and halt.

use rekindle_types::spec::Cadence;
use rekindle_types::{
    CheckpointPart, Epoch, Failure, FailureClass, JobId, Origin, RankId, StartTrainer, StepReport,
};
use rekindle_worker_core::trainer_messages::{FromTrainer, ToTrainer};
use rekindle_worker_core::{Event, Exit, TrainerKey};

use crate::world::{Due, Process, World};

impl World {
    pub(crate) fn spawn(&mut self, worker: usize, key: TrainerKey, start: StartTrainer) {
        self.note(&format!("w{worker} spawns {key}"));
        self.check_spawn(worker, &key, &start);
        let life = self.hosts[worker].life;
        let load = self.rng.within(20, 800) * self.hosts[worker].slowness;
        self.hosts[worker]
            .processes
            .insert(key.clone(), Process::new(start));
        let spawned = key.clone();
        self.after(
            1,
            Due::Spawned {
                worker,
                life,
                key: spawned,
            },
        );
        self.after(load, Due::Loaded { worker, life, key });
    }

    pub(crate) fn process(&mut self, worker: usize, life: u32, key: &TrainerKey) -> Option<&mut Process> {
        let host = self.hosts.get_mut(worker)?;
        if host.life == life {
            host.processes.get_mut(key)
        } else {
            None
        }
    }

    pub(crate) fn says(&mut self, worker: usize, key: &TrainerKey, message: FromTrainer) {
        self.says_after(1, worker, key, message);
    }

    pub(crate) fn says_after(&mut self, delay: u64, worker: usize, key: &TrainerKey, message: FromTrainer) {
        let life = self.hosts[worker].life;
        let key = key.clone();
        self.after(
            delay,
            Due::Says {
                worker,
                life,
                key,
                message,
            },
        );
    }

    /// What a living trainer says reaches its worker.
    pub(crate) fn said(&mut self, worker: usize, life: u32, key: TrainerKey, message: FromTrainer) {
        let lives = self
            .process(worker, life, &key)
            .is_some_and(|process| !process.stopping);
        if let FromTrainer::Saved { part, .. } = &message {
            if !lives {
                return;
            }
            self.store_part(&key.job, key.epoch, part);
        }
        self.tell_worker(worker, life, Event::FromTrainer { key, message });
    }

    pub(crate) fn die_later(&mut self, worker: usize, key: &TrainerKey, delay: u64, code: i32) {
        let due = Due::Dies {
            worker,
            life: self.hosts[worker].life,
            key: key.clone(),
            code: Some(code),
            signal: None,
        };
        self.after(delay, due);
    }

    pub(crate) fn loaded(&mut self, worker: usize, life: u32, key: &TrainerKey) {
        if self
            .process(worker, life, key)
            .is_none_or(|process| process.stopping)
        {
            return;
        }
        let data_address = format!("w{worker}:{}", key.rank.0);
        let ready = FromTrainer::Ready {
            data_address,
            in_memory: self.hosts[worker].memory.offers(key),
        };
        self.says(worker, key, ready);
    }

    pub(crate) fn tell_trainer(&mut self, worker: usize, key: &TrainerKey, message: ToTrainer) {
        let life = self.hosts[worker].life;
        let Some(process) = self.process(worker, life, key) else {
            return;
        };
        if process.stopping {
            return;
        }
        if message == ToTrainer::Halt {
            self.told_to_halt(worker, key);
            return;
        }
        if message == ToTrainer::Save {
            let gang = self.gangs.entry((key.job.clone(), key.epoch)).or_default();
            gang.save = true;
            return;
        }
        let ToTrainer::Connect { from: origin, .. } = message else {
            return;
        };
        let Origin {
            step: local,
            refills,
            save,
            ..
        } = origin;
        let start = process.start.start.clone();
        if local.is_none() && self.is_damaged(&key.job, start.as_ref()) {
            self.fails_to_load(worker, key);
            return;
        }
        let from = local.or(start.map(|start| start.step)).unwrap_or(0);
        if !refills.contains_key(&key.rank) {
            self.loads(worker, key, from, local);
        }
        let Some(process) = self.process(worker, life, key) else {
            return;
        };
        process.training = true;
        let world = process.start.plan.world() as usize;
        let gang = self.gangs.entry((key.job.clone(), key.epoch)).or_default();
        gang.connected.insert(key.rank);
        gang.step = gang.step.max(from);
        gang.owed |= save;
        (gang.from, gang.refills) = (from, refills);
        let (broken, all) = (gang.broken, gang.connected.len() == world);
        if broken {
            let delay = self.rng.within(1, 300);
            let key = key.clone();
            self.after(delay, Due::PeerLost { worker, life, key });
        } else if all {
            self.fill_some(&key.job.clone(), key.epoch, true);
            self.next_step(&key.job.clone(), key.epoch);
        }
    }

    fn fails_to_load(&mut self, worker: usize, key: &TrainerKey) {
        let failure = Failure {
            class: FailureClass::CheckpointCorrupt,
            rank: Some(key.rank),
            worker: None,
            message: "a block has another digest".to_owned(),
        };
        self.says(worker, key, FromTrainer::Failed(failure));
        self.die_later(worker, key, 5, 1);
        if let Some(process) = self.hosts[worker].processes.get_mut(key) {
            process.failed = true;
            let process = process.clone();
            self.gang_lost(key, &process);
        }
    }

    pub(crate) fn members(&self, job: &JobId, epoch: Epoch) -> Vec<(usize, TrainerKey)> {
        let mut members = Vec::new();
        for (worker, host) in self.hosts.iter().enumerate() {
            let of = host
                .processes
                .keys()
                .filter(|key| key.job == *job && key.epoch == epoch);
            members.extend(of.map(|key| (worker, key.clone())));
        }
        members
    }

    fn next_step(&mut self, job: &JobId, epoch: Epoch) {
        let members = self.members(job, epoch);
        let slowest = members
            .iter()
            .map(|(worker, _)| self.hosts[*worker].slowness)
            .max();
        let time = self.rng.within(50, 400) * slowest.unwrap_or(1);
        let job = job.clone();
        self.after(time, Due::GangStep { job, epoch });
    }

    pub(crate) fn gang_step(&mut self, job: &JobId, epoch: Epoch) {
        let Some(gang) = self.gangs.get_mut(&(job.clone(), epoch)) else {
            return;
        };
        if gang.broken || gang.hung.is_some() || gang.complete {
            return;
        }
        let (before, wished) = (gang.step, std::mem::take(&mut gang.save));
        let owed = std::mem::take(&mut gang.owed);
        let members = self.members(job, epoch);
        let spec = members
            .first()
            .and_then(|(worker, key)| self.hosts[*worker].processes.get(key))
            .map(|process| process.start.spec.clone());
        let Some(spec) = spec else { return };
        let (steps, step) = (spec.training.steps, before + 1);
        self.fill_some(job, epoch, false);
        let mut saved_after = match owed {
            true => self.save(job, before, &members),
            false => 1,
        };
        // A gang that starts from the last step has only its export to do.
        if before < steps {
            self.ledger.committed.insert(job.clone(), (self.now, epoch));
            if let Some(gang) = self.gangs.get_mut(&(job.clone(), epoch)) {
                gang.step = step;
                if step == gang.from + 1 {
                    self.forgets_older_shadows(&members);
                }
            }
            for (worker, key) in &members {
                self.keeps(*worker, key, step, true);
                if key.rank == RankId(0) {
                    self.says(*worker, key, FromTrainer::Step(report(job, step, epoch)));
                } else {
                    self.says(*worker, key, FromTrainer::Progress { step });
                }
            }
            let due = match spec.checkpoint.every {
                Cadence::Steps(every) => wished || step == steps || step.is_multiple_of(every),
                _ => false,
            };
            if due {
                saved_after = self.save(job, step, &members);
            }
        }
        if step < steps {
            self.next_step(job, epoch);
            return;
        }
        if let Some(gang) = self.gangs.get_mut(&(job.clone(), epoch)) {
            gang.complete = true;
        }
        for (worker, key) in members {
            if let Some(process) = self.hosts[worker].processes.get_mut(&key) {
                process.finished = true;
            }
            self.says_after(saved_after, worker, &key, FromTrainer::Finished);
            let delay = saved_after + self.rng.within(5, 500);
            self.die_later(worker, &key, delay, 0);
        }
    }

    /// Every rank's part of a checkpoint becomes durable after a while, or (seldom) doesn't. Returns after how long
    /// all have said so.
    fn save(&mut self, job: &JobId, step: u64, members: &[(usize, TrainerKey)]) -> u64 {
        let mut last = 1;
        for (worker, key) in members {
            let delay = self.rng.within(2, 700) * self.hosts[*worker].slowness;
            let message = if self.rng.one_in(40) && !self.config.is_quiet() {
                self.blame_storage(job);
                let message = "disk full".to_owned();
                FromTrainer::SaveFailed { step, message }
            } else {
                FromTrainer::Saved {
                    part: Box::new(CheckpointPart {
                        step,
                        rank: key.rank,
                        files: Vec::new(),
                        persist_seconds: 0.1,
                        stall_seconds: 0.0,
                    }),
                    interval: None,
                }
            };
            // One rank's checkpoints become durable in order.
            let busy = self.hosts[*worker].saving.get(key).copied().unwrap_or(0);
            let at = (self.now + delay).max(busy + 1);
            self.hosts[*worker].saving.insert(key.clone(), at);
            self.says_after(at - self.now, *worker, key, message);
            last = last.max(at - self.now + 1);
        }
        last
    }

    pub(crate) fn terminate(&mut self, worker: usize, key: &TrainerKey) {
        let life = self.hosts[worker].life;
        let Some(process) = self.process(worker, life, key) else {
            return;
        };
        process.stopping = true;
        // Now and then one doesn't listen, and has to be killed.
        let delay = if self.rng.one_in(8) {
            60_000
        } else {
            self.rng.within(2, 200)
        };
        self.die_later(worker, key, delay, 0);
    }

    /// A process ends.
    pub(crate) fn dies(
        &mut self,
        worker: usize,
        life: u32,
        key: &TrainerKey,
        code: Option<i32>,
        signal: Option<i32>,
    ) {
        let host = &mut self.hosts[worker];
        if host.life != life {
            return;
        }
        let Some(process) = host.processes.remove(key) else {
            return;
        };
        self.note(&format!("w{worker} {key} ends, code {code:?} signal {signal:?}"));
        self.gang_lost(key, &process);
        let last_lines = Vec::new();
        let key = key.clone();
        let exit = Exit {
            code,
            signal,
            last_lines,
        };
        self.tell_worker(worker, life, Event::Exited { key, exit });
    }

    /// The others of the gang notice, unless all is done. One that hasn't met them isn't missed: its worker may start
    /// another in its place.
    pub(crate) fn gang_lost(&mut self, key: &TrainerKey, process: &Process) {
        if process.finished {
            return;
        }
        let gang = self.gangs.entry((key.job.clone(), key.epoch)).or_default();
        if gang.complete || !gang.connected.contains(&key.rank) {
            return;
        }
        gang.broken = true;
        for (worker, peer) in self.members(&key.job, key.epoch) {
            let life = self.hosts[worker].life;
            if self
                .process(worker, life, &peer)
                .is_some_and(|peer| peer.training)
            {
                let delay = self.rng.within(1, 300);
                self.after(
                    delay,
                    Due::PeerLost {
                        worker,
                        life,
                        key: peer,
                    },
                );
            }
        }
    }
}

/// What a step is like: a function of job, step and epoch alone.
fn report(job: &JobId, step: u64, epoch: Epoch) -> StepReport {
    StepReport {
        step,
        loss: 5.0 / (step + job.as_str().len() as u64) as f64,
        grad_norm: 1.0,
        lr: 0.1,
        tokens: 16,
        step_seconds: 0.25,
        epoch,
        data_digest: format!("{job}/{step}"),
        state_digest: None,
        val_loss: None,
        stage_norms: Vec::new(),
    }
}
