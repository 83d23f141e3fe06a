//! What happens to trainers: start, connect, stop, what they say, how they end (WC-2, WC-4). Going over to another
//! epoch is in [`crate::edits`].

use rekindle_types::{Epoch, Failure, FailureClass, JobId, RankId, Report, StartTrainer, TrainerPhase};

use crate::TrainerKey;
use crate::effect::Effect;
use crate::event::Exit;
use crate::machine::Worker;
use crate::trainer_messages::{FromTrainer, ToTrainer};
use crate::trainers::{Orders, Trainer};

impl Worker {
    pub(crate) fn start(&mut self, start: StartTrainer) {
        let key = TrainerKey {
            job: start.plan.job.clone(),
            epoch: start.plan.epoch,
            rank: start.rank,
        };
        let known = self.trainers.living.contains_key(&key) || self.trainers.queued.contains_key(&key);
        if known || self.leaving.is_some() || !self.fences.may_start(&key) {
            return;
        }
        let worker = self.config.worker.clone();
        if let Some(before) = key.epoch.0.checked_sub(1) {
            self.end_others(&key.job, Epoch(before), |old, trainer| {
                start.plan.worker_of(old.rank) == Some(&worker) && trainer.may_go_over(&start)
            });
        }
        if self.edit(&key, &start) {
            return;
        }
        self.trainers.queued.insert(key, start);
        self.spawn_startable();
    }

    pub(crate) fn spawn_startable(&mut self) {
        for (key, start) in self.trainers.take_startable() {
            self.trainers.enter(&key, &start);
            self.out.push(Effect::SpawnTrainer {
                key,
                start: Box::new(start),
                listen_host: self.config.data_host.clone(),
                threads: self.config.threads,
                device: self.config.device,
            });
        }
    }

    pub(crate) fn connect(&mut self, job: &JobId, epoch: Epoch, orders: &Orders) {
        if !self.fences.pass(job, epoch) {
            return;
        }
        let mut ready = Vec::new();
        for (key, trainer) in &mut self.trainers.living {
            if key.job != *job || key.epoch != epoch || trainer.stopping {
                continue;
            }
            match trainer.phase {
                TrainerPhase::Loading => trainer.orders = Some(orders.clone()),
                TrainerPhase::Ready => {
                    trainer.phase = TrainerPhase::Training;
                    ready.push(key.clone());
                }
                TrainerPhase::Training => {}
            }
        }
        for key in ready {
            let message = ToTrainer::Connect {
                peers: orders.peers.clone(),
                from: orders.from.clone(),
            };
            self.out.push(Effect::ToTrainer { key, message });
        }
    }

    /// Passes the wish for a checkpoint on to a trainer that trains.
    pub(crate) fn save(&mut self, job: &JobId, epoch: Epoch, rank: RankId) {
        let key = TrainerKey {
            job: job.clone(),
            epoch,
            rank,
        };
        let trains = |trainer: &crate::trainers::Trainer| {
            trainer.phase == TrainerPhase::Training && trainer.is_at_work()
        };
        if self.trainers.living.get(&key).is_some_and(trains) {
            let message = ToTrainer::Save;
            self.out.push(Effect::ToTrainer { key, message });
        }
    }

    pub(crate) fn stop(&mut self, job: &JobId, epoch: Epoch) {
        self.fences.stop(job, epoch);
        self.end_others(job, epoch, |_, _| false);
        self.spawn_startable();
    }

    /// What is kept in memory for a job that has ended can go, as soon as none of its trainers is left that may add
    /// to it.
    pub(crate) fn forget(&mut self, job: JobId) {
        let of = |key: &TrainerKey| key.job == job;
        if self.trainers.living.keys().any(of) {
            self.to_forget.insert(job);
        } else {
            self.to_forget.remove(&job);
            self.out.push(Effect::Forget { job });
        }
    }

    pub(crate) fn stop_all(&mut self) {
        let mut jobs: Vec<JobId> = self.trainers.living.keys().map(|key| key.job.clone()).collect();
        jobs.extend(self.trainers.queued.keys().map(|key| key.job.clone()));
        jobs.dedup();
        for job in jobs {
            if let Some(newest) = self.trainers.newest(&job) {
                self.stop(&job, newest);
            }
        }
    }

    /// Ends trainers of a job up to an epoch, the queued ones at once, the living ones with a grace unless they `stay`.
    pub(crate) fn end_others(
        &mut self,
        job: &JobId,
        epoch: Epoch,
        stay: impl Fn(&TrainerKey, &Trainer) -> bool,
    ) {
        let meant = |key: &&TrainerKey| key.job == *job && key.epoch <= epoch;
        let waiting: Vec<TrainerKey> = self.trainers.queued.keys().filter(meant).cloned().collect();
        for key in waiting {
            self.trainers.queued.remove(&key);
            self.fences.end(&key);
            self.report(&key, Report::Stopped);
        }
        let kill_at = self.mono() + self.config.stop_grace;
        for (key, trainer) in &mut self.trainers.living {
            let of = key.job == *job && key.epoch <= epoch;
            if of && !trainer.stopping && !stay(key, trainer) {
                trainer.stops(kill_at);
                self.out.push(Effect::Terminate { key: key.clone() });
            }
        }
    }

    pub(crate) fn kill_overdue(&mut self) {
        let now = self.mono();
        for (key, trainer) in &mut self.trainers.living {
            if trainer.kill_at.is_some_and(|at| now >= at) {
                trainer.kill_at = Some(now + self.config.stop_grace.max(1));
                self.out.push(Effect::Kill { key: key.clone() });
            }
        }
    }

    /// A process that was told to stop before it ran is told again.
    pub(crate) fn spawned(&mut self, key: &TrainerKey) {
        let stopping = self
            .trainers
            .living
            .get(key)
            .is_some_and(|trainer| trainer.stopping);
        if stopping {
            self.out.push(Effect::Terminate { key: key.clone() });
        }
    }

    pub(crate) fn spawn_failed(&mut self, key: &TrainerKey, message: &str) {
        let exit = Exit::default();
        let why = format!("its process couldn't be started: {message}");
        self.gone(key, &exit, Some(why));
    }

    pub(crate) fn hear(&mut self, key: &TrainerKey, message: FromTrainer) {
        let kill_at = self.mono() + self.config.stop_grace;
        let Some(trainer) = self.trainers.living.get_mut(key) else {
            return;
        };
        if trainer.said_end {
            return;
        }
        let report = match message {
            FromTrainer::Ready {
                data_address,
                in_memory,
            } => {
                if trainer.phase != TrainerPhase::Loading {
                    return;
                }
                trainer.phase = TrainerPhase::Ready;
                trainer.edit_by = None;
                trainer.address = Some(data_address.clone());
                trainer.in_memory.clone_from(&in_memory);
                Report::Ready {
                    data_address,
                    in_memory,
                }
            }
            FromTrainer::Step(step) => {
                trainer.step = trainer.step.max(step.step);
                Report::Step(step)
            }
            FromTrainer::Progress { step } => {
                trainer.step = trainer.step.max(step);
                return;
            }
            FromTrainer::Saved { part, interval } => Report::Saved { part, interval },
            FromTrainer::SaveFailed { step, message } => Report::SaveFailed { step, message },
            FromTrainer::WaitsForStorage { step } => Report::WaitsForStorage { step },
            FromTrainer::Watermark(_) if trainer.stopping => return,
            FromTrainer::Watermark(mark) => Report::Watermark(mark),
            FromTrainer::Halted { failure } => match trainer.halts(failure) {
                Some(report) => report,
                None => return,
            },
            FromTrainer::Finished => Report::Finished,
            // A trainer that was told to stop may see its peers go first: that is no failure. What its device has met
            // is.
            FromTrainer::Failed(failure) if trainer.ends_as_told() && !failure.class.blames_device() => {
                return;
            }
            FromTrainer::Failed(failure) if trainer.edit_by.is_some() => {
                return self.edit_failed(key, &failure.message);
            }
            FromTrainer::Failed(failure) => Report::Failed(failure),
        };
        let ends = matches!(report, Report::Finished | Report::Failed(_));
        if ends {
            trainer.said_end = true;
            trainer.kill_at.get_or_insert(kill_at);
        }
        let connect = trainer
            .orders
            .take()
            .filter(|_| matches!(report, Report::Ready { .. }));
        if ends {
            self.fences.end(key);
        }
        self.report(key, report);
        if let Some(orders) = connect {
            self.connect(&key.job.clone(), key.epoch, &orders);
        }
    }

    pub(crate) fn exited(&mut self, key: &TrainerKey, exit: &Exit) {
        self.gone(key, exit, None);
    }

    /// A process is no more: its end is reported unless it was said before.
    fn gone(&mut self, key: &TrainerKey, exit: &Exit, why: Option<String>) {
        let Some(trainer) = self.trainers.living.remove(key) else {
            return;
        };
        if trainer.edit_by.is_some() && !trainer.stopping {
            // Nobody has heard of it in this epoch yet: another process takes the rank, with what this one left.
            self.trainers.queued.insert(key.clone(), trainer.start);
            self.spawn_startable();
            return;
        }
        if !trainer.said_end {
            self.fences.end(key);
            let report = if trainer.ends_as_told() {
                Report::Stopped
            } else {
                let message = why.unwrap_or_else(|| crash_message(trainer.step, exit));
                Report::Failed(Failure {
                    class: FailureClass::WorkerCrash,
                    rank: Some(key.rank),
                    worker: Some(self.config.worker.clone()),
                    message,
                })
            };
            self.report(key, report);
        }
        if self.to_forget.contains(&key.job) {
            self.forget(key.job.clone());
        }
        self.spawn_startable();
    }
}

/// How a process ended, after which step, and what it said last.
fn crash_message(step: u64, exit: &Exit) -> String {
    let how = match (exit.signal, exit.code) {
        (Some(signal), _) => format!("was ended by signal {signal}"),
        (None, Some(0)) => "exited with status 0 before it was through".to_owned(),
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "ended in an unknown way".to_owned(),
    };
    let when = match step {
        0 => "before its first known step".to_owned(),
        step => format!("after step {step}"),
    };
    let last = exit.last_lines.join(" | ");
    let said = if last.is_empty() {
        String::new()
    } else {
        format!("; it said last: {last}")
    };
    format!("its trainer process {how} {when}{said}")
}
