//! Taking up a journal: gangs that may still train are awaited, not touched.

use rekindle_types::{JobId, JobState};

use crate::machine::Coordinator;
use crate::registry::{Occupant, Worker};
use crate::run::{Goal, Run};
use crate::{Effect, RankPhase};

/// Jobs whose end is among so many last ones have their history given out again: the coordinator may have died between
/// making the end durable and writing the line.
const ENDS_RETOLD: u64 = 16;

impl Coordinator {
    /// Makes a gang for every job that had one, and expects its workers back.
    pub(crate) fn expect_gangs(&mut self) {
        let now = self.mono();
        for (id, job) in self.live.jobs() {
            if job.state == JobState::Recovering {
                self.regroups.insert(id.clone(), now + self.config.regroup);
                // They have what the job goes on from.
                for worker in job.plan.iter().flat_map(|plan| &plan.workers) {
                    let entry = self.registry.workers.entry(worker.clone());
                    entry.or_insert_with(|| Worker::expected(now));
                }
            }
            let gang = job.is_training() || job.state == JobState::Cancelling;
            let Some(plan) = job.plan.as_ref().filter(|_| gang) else {
                continue;
            };
            let mut run = Run::new(plan, now, &self.config);
            for rank in &job.finished {
                if let Some(state) = run.rank_mut(*rank) {
                    state.phase = RankPhase::Finished;
                }
            }
            if !job.finished.is_empty() {
                run.aim(Goal::Finish, now, &self.config);
            } else if job.state == JobState::Running {
                run.aim(Goal::FirstStep, now, &self.config);
            }
            run.failed_at = (!job.failures.is_empty()).then_some(now);
            run.cancel_by = (job.state == JobState::Cancelling).then_some(now + self.config.cancel_limit);
            self.runs.insert(id.clone(), run);
            for (rank, worker) in plan.ranks().zip(&plan.workers) {
                let entry = self.registry.workers.entry(worker.clone());
                let entry = entry.or_insert_with(|| Worker::expected(now));
                let occupant = Occupant::new(plan.epoch);
                if !job.finished.contains(&rank) {
                    entry.occupants.insert((id.clone(), rank), occupant);
                }
            }
        }
    }

    /// With the first event: folders, lines that may be missing from files, decisions that were due when the journal
    /// ended.
    pub(crate) fn boot(&mut self) {
        let jobs: Vec<JobId> = self.live.in_order().into_iter().cloned().collect();
        let ends = self
            .live
            .jobs()
            .values()
            .map(|job| job.end_number)
            .max()
            .unwrap_or(0);
        for id in jobs {
            let Some(job) = self.live.job(&id) else { continue };
            let (living, output) = (!job.state.is_terminal(), job.spec.job.output.clone());
            if !living && job.end_number + ENDS_RETOLD <= ends {
                continue;
            }
            let events: Vec<_> = job.events.iter().cloned().collect();
            if living {
                let job = id.clone();
                let output = output.clone();
                self.emit(Effect::PrepareOutput {
                    job,
                    output,
                    after: None,
                });
            }
            for event in events {
                self.emit(Effect::AppendEvent {
                    output: output.clone(),
                    event: Box::new(event),
                    after: None,
                });
            }
            if living {
                self.close_incident(&id);
            }
            self.finish_interrupted(&id);
        }
        self.place_queue();
    }

    /// The journal may end between a last finished rank (or a strong failure) and the verdict that goes with it.
    fn finish_interrupted(&mut self, id: &JobId) {
        let Some(job) = self.live.job(id).filter(|job| job.is_training()) else {
            return;
        };
        if job.all_finished() && job.failures.is_empty() && job.is_saved() {
            self.end(id, JobState::Succeeded, None);
        } else if job
            .failures
            .iter()
            .any(|failure| !crate::verdict::is_weak(failure.class))
        {
            self.decide(id);
        }
    }
}
