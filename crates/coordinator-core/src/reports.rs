//! What workers report about trainers. Every report is acknowledged after the records it caused (CO-5: twice is as
//! once).

use rekindle_types::{
    Command, Failure, FailureClass, InMemory, JobId, JobState, NumberedReport, RankId, Report, StepReport,
    WorkerId,
};

use crate::machine::Coordinator;
use crate::run::Goal;
use crate::{Change, Effect, RankPhase, SessionId, Update};

/// Lines of epochs before that are taken in one epoch: more than any worker keeps, of several.
const MOST_TOLD_AGAIN: usize = 16_384;

impl Coordinator {
    pub(crate) fn report(&mut self, session: SessionId, report: NumberedReport) {
        let now = self.mono();
        let Some((worker, entry)) = self.registry.hear(session, now) else {
            self.stale_session(session);
            return;
        };
        let worker = worker.clone();
        let number = report.number;
        let repeated = number <= entry.last_report;
        let frees = matches!(
            report.report,
            Report::Finished | Report::Failed(_) | Report::Stopped | Report::Halted { .. }
        );
        entry.last_report = entry.last_report.max(number);
        if repeated {
            self.stats.repeated_reports += 1;
        } else {
            self.take_held(&worker, report);
        }
        let entry = self.registry.workers.get(&worker);
        if let Some(up_to) = entry.map(crate::registry::Worker::acknowledged) {
            self.send(&worker, Command::Acknowledge { up_to });
        }
        if frees {
            self.place_queue();
        }
    }

    /// Takes a report; one about a checkpoint that is on its way isn't acknowledged yet (CO-7).
    fn take_held(&mut self, worker: &WorkerId, report: NumberedReport) {
        let step = match &report.report {
            Report::Saved { part, .. } => Some(part.step),
            Report::SaveFailed { step, .. } => Some(*step),
            _ => None,
        };
        let (number, key) = (report.number, step.map(|s| (report.job.clone(), report.epoch, s)));
        if let (Some(key), Some(entry)) = (&key, self.registry.workers.get_mut(worker)) {
            entry.held.insert(number, key.clone());
        }
        self.take(worker, report);
        let done = key.is_some_and(|key| !self.is_pending(&key));
        if let Some(entry) = self.registry.workers.get_mut(worker).filter(|_| done) {
            entry.held.remove(&number);
        }
    }

    /// Whether the job's trainers are only to save their state before they are stopped.
    fn saves_first(&self, job: &JobId) -> bool {
        self.state_of(job) == Some(JobState::Cancelling)
            && self.runs.get(job).is_some_and(|run| run.awaited.is_some())
    }

    fn take(&mut self, worker: &WorkerId, report: NumberedReport) {
        let NumberedReport {
            job,
            epoch,
            rank,
            report,
            ..
        } = report;
        if matches!(report, Report::Finished | Report::Failed(_) | Report::Stopped) {
            self.release(worker, &job, rank, epoch);
        }
        if matches!(report, Report::Halted { .. }) {
            self.mark_halted(worker, &job, rank, epoch);
        }
        if let Report::Failed(failure) = &report
            && failure.class.blames_device()
        {
            self.registry.blame(worker);
        }
        let plan = self.live.job(&job).and_then(|job| job.plan.as_ref());
        let current =
            plan.is_some_and(|plan| plan.epoch == epoch && plan.workers.get(rank.0 as usize) == Some(worker));
        let saving = matches!(
            report,
            Report::Saved { .. }
                | Report::SaveFailed { .. }
                | Report::WaitsForStorage { .. }
                | Report::Watermark(_)
                | Report::Step(_)
        );
        let training =
            self.live.job(&job).is_some_and(|job| job.is_training()) || (saving && self.saves_first(&job));
        if !current || !training {
            // Ends of trainers that were told to stop are no surprise.
            let ends = matches!(
                report,
                Report::Stopped | Report::Failed(_) | Report::Halted { .. }
            );
            let expected = current && (ends || matches!(report, Report::Watermark(_)));
            self.stats.stale_reports += u64::from(!expected);
            let waits = matches!(report, Report::Halted { .. }) && !current;
            if waits || matches!(report, Report::Ready { .. } | Report::Step(_)) {
                self.stop_stray(worker, &job, rank, epoch);
            }
            if let (
                true,
                Report::Failed(failure)
                | Report::Halted {
                    failure: Some(failure),
                },
            ) = (current, &report)
            {
                self.note_late(&job, rank, worker, failure.clone());
            }
            if current && !saving {
                self.give_up_awaited(&job);
            }
            self.check_cancelled(&job);
            return;
        }
        match report {
            Report::Ready {
                data_address,
                in_memory,
            } => self.ready(&job, rank, worker, data_address, in_memory),
            Report::Step(step) => self.step(&job, rank, worker, step),
            Report::Saved { part, interval } => self.saved(&job, rank, *part, interval),
            Report::SaveFailed { step, message } => self.save_failed(&job, rank, step, message),
            Report::WaitsForStorage { step } => self.waits_for_storage(&job, rank, step),
            Report::Watermark(mark) => self.watermark(&job, rank, mark),
            Report::Finished => self.finished(&job, rank),
            Report::Failed(failure) => self.failed(&job, rank, worker, failure),
            Report::Stopped => self.stopped(&job, rank, worker),
            Report::Halted { failure } => self.halted(&job, rank, worker, failure),
        }
    }

    fn ready(&mut self, job: &JobId, rank: RankId, worker: &WorkerId, address: String, in_memory: InMemory) {
        let Some(state) = self.runs.get_mut(job).and_then(|run| run.rank_mut(rank)) else {
            return;
        };
        if state.phase > RankPhase::Starting {
            self.stats.repeated_reports += 1;
            return;
        }
        state.phase = RankPhase::Ready;
        let memory = found(&in_memory);
        let detail = format!("{rank} listens at {address}{memory}");
        state.address = Some(address);
        state.in_memory = in_memory;
        self.record(Change::Noted {
            job: job.clone(),
            actor: format!("worker/{worker}"),
            kind: "trainer.ready".to_owned(),
            detail,
        });
        self.connect_gang(job);
    }

    fn step(&mut self, job: &JobId, rank: RankId, worker: &WorkerId, step: StepReport) {
        if !(step.loss.is_finite() && step.grad_norm.is_finite()) {
            let failure = Failure {
                class: FailureClass::NumericNan,
                rank: Some(rank),
                worker: Some(worker.clone()),
                message: format!(
                    "step {} has loss {} and gradient norm {}; lower optimizer.lr or check the data",
                    step.step, step.loss, step.grad_norm
                ),
            };
            self.note_seen(job, failure, Some(worker));
            return;
        }
        let Some(known) = self.live.job(job) else { return };
        let (last, epoch) = (known.spec.training.steps, known.epoch());
        let (starting, output) = (known.state == JobState::Starting, known.spec.job.output.clone());
        let (after_step, reached) = (known.started_after(), known.reached);
        if step.step <= after_step {
            // A step of an epoch before, told again by every worker that has its line, because the report may have
            // been lost with one.
            let Some(run) = self.runs.get_mut(job) else { return };
            let heard = reached.is_some_and(|reached| step.step <= reached);
            if !heard && run.told_again.len() < MOST_TOLD_AGAIN && run.told_again.insert(step.step) {
                self.write_step(job, output, step);
            }
            return;
        }
        let now = self.mono();
        let Some(run) = self.runs.get_mut(job) else { return };
        if run
            .last_step
            .as_ref()
            .is_some_and(|before| before.step >= step.step)
        {
            self.stats.repeated_steps += 1;
            return;
        }
        run.step(step.clone(), last, now, &self.config);
        if starting {
            self.record(Change::Running {
                job: job.clone(),
                epoch,
            });
            self.close_incident(job);
        }
        self.write_step(job, output, step);
    }

    fn write_step(&mut self, job: &JobId, output: String, step: StepReport) {
        let after = self.after();
        self.emit(Effect::AppendMetrics {
            job: job.clone(),
            output,
            report: Box::new(step.clone()),
            after,
        });
        self.emit(Effect::Publish {
            job: job.clone(),
            update: Update::Step(step),
            after,
        });
    }

    fn finished(&mut self, job: &JobId, rank: RankId) {
        let now = self.mono();
        let epoch = self.live.job(job).map(|job| job.epoch()).unwrap_or_default();
        let Some(run) = self.runs.get_mut(job) else { return };
        if let Some(state) = run.rank_mut(rank) {
            state.phase = RankPhase::Finished;
            state.missing_by = None;
            state.told_end = true;
        }
        if run.goal != Goal::Finish {
            run.aim(Goal::Finish, now, &self.config);
        }
        self.record(Change::RankFinished {
            job: job.clone(),
            epoch,
            rank,
        });
        self.finish_if_through(job);
    }

    /// Ends a job whose ranks are all through and whose last checkpoint is committed, or can't be.
    pub(crate) fn finish_if_through(&mut self, id: &JobId) {
        let Some(job) = self.live.job(id).filter(|job| job.is_training()) else {
            return;
        };
        let committing = self.runs.get(id).is_some_and(|run| !run.saves.is_empty());
        if !job.all_finished() || !job.failures.is_empty() || committing {
            return;
        }
        if job.is_saved() {
            self.end(id, JobState::Succeeded, None);
            return;
        }
        // The goal's deadline ends this wait.
        let untold = |run: &crate::run::Run| run.ranks.iter().any(|rank| !rank.told_end);
        if self.runs.get(id).is_some_and(untold) {
            return;
        }
        let why = job
            .save_failure
            .clone()
            .unwrap_or_else(|| "its parts were never reported".to_owned());
        let failure = Failure {
            class: FailureClass::CheckpointIo,
            rank: None,
            worker: None,
            message: format!("all steps are committed, but the last checkpoint is not: {why}"),
        };
        self.note_failure(id, failure);
    }

    /// A trainer of a cancelled job ended before its state was saved: nothing to wait for any more.
    fn give_up_awaited(&mut self, job: &JobId) {
        if self.saves_first(job) {
            if let Some(run) = self.runs.get_mut(job) {
                run.awaited = None;
            }
            self.stop_holders(job, "the job is cancelled");
        }
    }

    pub(crate) fn failed(&mut self, job: &JobId, rank: RankId, worker: &WorkerId, failure: Failure) {
        self.ended(job, rank);
        let failure = Failure {
            rank: failure.rank.or(Some(rank)),
            worker: failure.worker.or_else(|| Some(worker.clone())),
            ..failure
        };
        self.note_seen(job, failure, Some(worker));
    }

    /// A trainer stopped though the job goes on: its worker was shut down.
    fn stopped(&mut self, job: &JobId, rank: RankId, worker: &WorkerId) {
        self.ended(job, rank);
        let failure = Failure {
            class: FailureClass::WorkerLost,
            rank: Some(rank),
            worker: Some(worker.clone()),
            message: format!(
                "worker {worker} stopped {rank} without being told to; it was shut down or cut off for too long"
            ),
        };
        self.note_seen(job, failure, Some(worker));
    }

    fn ended(&mut self, job: &JobId, rank: RankId) {
        if let Some(state) = self.runs.get_mut(job).and_then(|run| run.rank_mut(rank)) {
            state.phase = RankPhase::Ended;
            state.missing_by = None;
        }
    }
}

/// What a trainer found in memory, in words.
fn found(in_memory: &InMemory) -> String {
    let own = in_memory.own.iter().max();
    let own = own.map_or_else(String::new, |step| format!(", step {step} is in memory"));
    let of = |(rank, steps): (&RankId, &Vec<u64>)| {
        Some(format!(", that of {rank} at step {}", steps.iter().max()?))
    };
    let guarded: String = in_memory.guarded.iter().filter_map(of).collect();
    let set = in_memory.parity.iter().map(|set| set.step).max();
    let set = set.map_or_else(String::new, |step| format!(", step {step} with parities"));
    format!("{own}{guarded}{set}")
}
