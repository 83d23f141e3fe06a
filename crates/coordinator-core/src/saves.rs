//! Checkpoints on their way: parts of ranks, the commit, what waits for one (CO-7).
//!
//! ```text
//!   rank: Saved(part) --all ranks--> committed in turn (`commits`) --> CheckpointWritten --> record, acknowledgements
//!         SaveFailed  --any rank---> record, the other parts are of no use
//! ```
//!
//! Every rank reports its checkpoints in the order of steps. So when a step has all its reports, an older step that
//! hasn't will never have them (its reports were acknowledged before a restart of this process), and is given up;
//! what is said about it all the same comes too late, and nothing waits for more of it.

use rekindle_types::clock::Mono;
use rekindle_types::{
    CheckpointPart, Command, Epoch, Failure, FailureClass, JobId, JobState, RankId, WorkerId,
};

use crate::machine::Coordinator;
use crate::{Change, CommittedCheckpoint};

/// A checkpoint that something waits for.
#[derive(Debug, Clone)]
pub(crate) struct Awaited {
    /// Of this step or a later one.
    pub(crate) step: u64,
    /// Until then.
    pub(crate) by: Mono,
    /// It failed. What failed before, or was under way and is of an older step, isn't waited for.
    failed: bool,
    /// What for.
    pub(crate) purpose: Purpose,
}

/// What waits for a checkpoint.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    /// The job is cancelled then.
    Cancel,
    /// The job goes on without this worker then.
    Drain(WorkerId),
}

impl Coordinator {
    pub(crate) fn saved(&mut self, job: &JobId, rank: RankId, part: CheckpointPart, interval: Option<u64>) {
        let step = part.step;
        let Some(run) = self.save_run(job, step) else {
            return;
        };
        run.interval = interval.or(run.interval);
        let save = run.saves.entry(step).or_default();
        save.reported.insert(rank);
        save.parts.insert(rank, part);
        self.advance_save(job, step);
    }

    pub(crate) fn save_failed(&mut self, job: &JobId, rank: RankId, step: u64, message: String) {
        let Some(run) = self.save_run(job, step) else {
            return;
        };
        let save = run.saves.entry(step).or_default();
        save.reported.insert(rank);
        let first = !std::mem::replace(&mut save.failed, true);
        if first {
            self.record_failed_save(job, step, format!("{rank}: {message}"));
        }
        self.advance_save(job, step);
    }

    /// A rank stands still until its store has taken something: no hang. The retries of whoever writes end it.
    pub(crate) fn waits_for_storage(&mut self, job: &JobId, rank: RankId, step: u64) {
        self.give_time(job);
        let Some(run) = self.runs.get_mut(job) else { return };
        if run.held_up.replace(step) != Some(step) {
            let detail = format!("{rank} waits at step {step} until earlier checkpoints are written");
            self.note(job, "checkpoint.slow", detail);
        }
    }

    /// The gang, unless a checkpoint of this step or a later one is committed already (a report from before a
    /// restart) or was reported by all ranks (it comes late).
    fn save_run(&mut self, job: &JobId, step: u64) -> Option<&mut crate::run::Run> {
        let known = self.live.job(job)?;
        let old = known.checkpoint.as_ref().is_some_and(|done| done.step >= step);
        let this_epoch = known.start.as_ref().is_none_or(|start| start.step < step);
        let late = |run: &crate::run::Run| step <= run.all_reported;
        self.runs
            .get_mut(job)
            .filter(|run| !old && this_epoch && !late(run))
    }

    /// A checkpoint is committed or given up: the reports about it may be forgotten.
    pub(crate) fn forget_save(&mut self, job: &JobId, epoch: Epoch, step: u64) {
        if let Some(run) = self.runs.get_mut(job).filter(|run| run.epoch == epoch) {
            run.saves.remove(&step);
        }
        self.let_go(|(of, under, at)| of == job && *under == epoch && *at == step);
    }

    /// Nothing of the job is awaited any more.
    pub(crate) fn forget_saves(&mut self, job: &JobId) {
        self.let_go(|(of, _, _)| of == job);
    }

    fn let_go(&mut self, done: impl Fn(&(JobId, Epoch, u64)) -> bool) {
        let mut told = Vec::new();
        for (name, worker) in &mut self.registry.workers {
            let before = worker.acknowledged();
            worker.held.retain(|_, key| !done(key));
            if worker.acknowledged() > before {
                told.push((name.clone(), worker.acknowledged()));
            }
        }
        for (worker, up_to) in told {
            self.send(&worker, Command::Acknowledge { up_to });
        }
    }

    /// Whether a report about this checkpoint must be kept by its worker.
    pub(crate) fn is_pending(&self, (job, epoch, step): &(JobId, Epoch, u64)) -> bool {
        let run = self.runs.get(job).filter(|run| run.epoch == *epoch);
        run.is_some_and(|run| run.saves.contains_key(step))
    }

    pub(crate) fn checkpoint_written(
        &mut self,
        id: &JobId,
        epoch: Epoch,
        step: u64,
        outcome: Result<CommittedCheckpoint, String>,
        notes: Vec<(String, String)>,
    ) {
        let current = self
            .live
            .job(id)
            .is_some_and(|job| job.epoch() == epoch && !job.state.is_terminal());
        match outcome {
            Ok(checkpoint) if current => self.record(Change::CheckpointCommitted {
                job: id.clone(),
                epoch,
                checkpoint,
            }),
            Ok(checkpoint) => {
                let detail = format!(
                    "the checkpoint of step {step} was committed at last: {}",
                    checkpoint.url
                );
                self.note(id, "checkpoint.late", detail);
            }
            Err(message) if current => self.record_failed_save(id, step, message),
            Err(message) => self.note(id, "checkpoint.failed", format!("step {step}: {message}")),
        }
        for (kind, detail) in notes {
            self.note(id, &kind, detail);
        }
        self.forget_save(id, epoch, step);
        self.serve_awaited(id);
        self.commit_next(id);
        self.finish_if_through(id);
        self.place_queue();
    }

    pub(crate) fn note(&mut self, job: &JobId, kind: &str, detail: String) {
        if self.live.job(job).is_some() {
            self.record(Change::Noted {
                job: job.clone(),
                actor: "coordinator".to_owned(),
                kind: kind.to_owned(),
                detail,
            });
        }
    }

    fn record_failed_save(&mut self, id: &JobId, step: u64, message: String) {
        let Some(job) = self.live.job(id) else { return };
        let (epoch, most) = (job.epoch(), job.spec.checkpoint.max_failures);
        self.record(Change::CheckpointFailed {
            job: id.clone(),
            epoch,
            step,
            message: message.clone(),
        });
        let awaited = self.runs.get_mut(id).and_then(|run| run.awaited.as_mut());
        if let Some(awaited) = awaited.filter(|awaited| step >= awaited.step) {
            awaited.failed = true;
        }
        let failed = self.live.job(id).map_or(0, |job| job.failed_saves);
        if most > 0 && failed >= most {
            let failure = Failure {
                class: FailureClass::CheckpointIo,
                rank: None,
                worker: None,
                message: format!(
                    "{failed} checkpoints in a row failed, and checkpoint.max_failures is {most}; the last: {message}"
                ),
            };
            self.note_failure(id, failure);
        }
        self.serve_awaited(id);
    }

    /// Asks for a checkpoint of what is committed now, for a purpose. False when there is nothing to save or nobody
    /// to ask.
    pub(crate) fn ask_to_save(&mut self, id: &JobId, purpose: Purpose) -> bool {
        let Some(job) = self.live.job(id) else {
            return false;
        };
        let (true, true, Some(plan)) = (
            job.spec.checkpoint.is_on(),
            job.failures.is_empty(),
            job.plan.clone(),
        ) else {
            return false;
        };
        let by = self.mono() + self.config.save_limit;
        let steps = job.spec.training.steps;
        let Some(run) = self.runs.get_mut(id) else {
            return false;
        };
        let (Some(last), None) = (&run.last_step, &run.awaited) else {
            return false;
        };
        // At the earliest the step in flight: a checkpoint of what is committed already may be under way, and isn't
        // the one asked for.
        run.awaited = Some(Awaited {
            step: (last.step + 1).min(steps),
            by,
            failed: false,
            purpose,
        });
        if let Some(worker) = plan.workers.first() {
            let command = Command::Save {
                job: id.clone(),
                epoch: plan.epoch,
                rank: RankId(0),
            };
            self.send(worker, command);
        }
        true
    }

    /// What waited for a checkpoint goes on: it is there, it failed, or its time is over.
    pub(crate) fn serve_awaited(&mut self, id: &JobId) {
        let now = self.mono();
        let Some(job) = self.live.job(id) else { return };
        let saved = job.checkpoint.as_ref().map(|checkpoint| checkpoint.step);
        let Some(run) = self.runs.get_mut(id) else { return };
        let due = |awaited: &Awaited| {
            saved.is_some_and(|step| step >= awaited.step) || awaited.failed || now >= awaited.by
        };
        let Some(awaited) = run.awaited.take_if(|awaited| due(awaited)) else {
            return;
        };
        let by = now + self.config.cancel_limit;
        match awaited.purpose {
            Purpose::Cancel => {
                if let Some(run) = self.runs.get_mut(id) {
                    run.cancel_by = Some(by);
                }
                self.stop_holders(id, "the job is cancelled");
                self.check_cancelled(id);
            }
            Purpose::Drain(worker) => self.leave_worker(id, &worker),
        }
    }

    /// A worker was asked to leave: what runs on it is saved, then goes on elsewhere.
    pub(crate) fn drain(&mut self, session: crate::SessionId, grace: crate::Millis) {
        let now = self.mono();
        let Some((worker, entry)) = self.registry.hear(session, now) else {
            self.stale_session(session);
            return;
        };
        let worker = worker.clone();
        if std::mem::replace(&mut entry.draining, true) {
            return;
        }
        self.stop_waiting_on(&worker);
        let jobs: Vec<JobId> = self.runs.keys().cloned().collect();
        for job in jobs {
            if self.unfinished_on(&job, &worker).is_empty() {
                continue;
            }
            let detail =
                format!("worker {worker} was asked to leave and stops its trainers within {grace} ms");
            self.note(&job, "worker.draining", detail);
            let running = self.state_of(&job) == Some(JobState::Running);
            if !(running && self.ask_to_save(&job, Purpose::Drain(worker.clone()))) {
                self.leave_worker(&job, &worker);
            }
        }
    }

    fn leave_worker(&mut self, job: &JobId, worker: &WorkerId) {
        if let Some(rank) = self.unfinished_on(job, worker).first() {
            self.lose_rank(job, *rank, worker, "was asked to leave");
        }
    }
}
