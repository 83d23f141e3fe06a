//! What survives the coordinator: the fold of its journal.
//!
//! In: records, in order. Out: jobs, and one line of history per record. Invariant CO-2 rests on [`Durable::apply`]
//! being the only way to change anything here.

use std::collections::BTreeMap;
use std::sync::Arc;

use rekindle_types::{JobEvent, JobId, JobSpec, JobState, Origin};

use crate::durable_job::DurableJob;
use crate::notes::note;
use crate::{Change, Config, Millis, Record};

/// A record that doesn't fit the records before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record about job {job} doesn't fit what came before it: {why}")]
pub struct FoldError {
    /// The job.
    pub job: JobId,
    /// What doesn't fit.
    pub why: &'static str,
}

/// The fold of a journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Durable {
    max_jobs: usize,
    max_events: usize,
    max_incidents: usize,
    jobs: BTreeMap<JobId, DurableJob>,
    submitted: u64,
    ended: u64,
}

impl Durable {
    /// The fold of no records.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            max_jobs: config.max_jobs.max(1),
            max_events: config.max_events.max(1),
            max_incidents: config.max_incidents.max(1),
            jobs: BTreeMap::new(),
            submitted: 0,
            ended: 0,
        }
    }

    /// Every job kept.
    #[must_use]
    pub fn jobs(&self) -> &BTreeMap<JobId, DurableJob> {
        &self.jobs
    }

    /// One job.
    #[must_use]
    pub fn job(&self, job: &JobId) -> Option<&DurableJob> {
        self.jobs.get(job)
    }

    /// Submissions ever taken.
    #[must_use]
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// The job a request made. Requests are remembered as long as their jobs.
    #[must_use]
    pub fn of_request(&self, request_id: &str) -> Option<(&JobId, &DurableJob)> {
        let wanted = |job: &DurableJob| !request_id.is_empty() && job.request_id == request_id;
        self.jobs.iter().find(|(_, job)| wanted(job))
    }

    /// Jobs in order of submission.
    #[must_use]
    pub fn in_order(&self) -> Vec<&JobId> {
        let mut ids: Vec<_> = self.jobs.iter().map(|(id, job)| (job.number, id)).collect();
        ids.sort();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Takes one record; gives the line of history it makes.
    ///
    /// # Errors
    /// [`FoldError`] when the record can't follow the ones before; nothing was changed.
    pub fn apply(&mut self, record: &Record) -> Result<JobEvent, FoldError> {
        let was = self.jobs.get(record.change.job()).map(|job| job.state);
        match &record.change {
            Change::Submitted {
                job,
                request_id,
                spec,
                resume,
            } => self.submit(record.at, job, request_id, spec, *resume)?,
            change => self.change(record.at, change)?,
        }
        let id = record.change.job();
        let (actor, kind, detail) = note(&record.change);
        let (max_events, max_incidents) = (self.max_events, self.max_incidents);
        let job = self.job_mut(id)?;
        job.follow(was, record.at, &record.change, max_incidents);
        job.event_count += 1;
        let event = JobEvent {
            seq: job.event_count,
            time_unix_ms: record.at,
            job: id.clone(),
            actor,
            kind,
            detail,
        };
        job.events.push_back(event.clone());
        while job.events.len() > max_events {
            job.events.pop_front();
        }
        Ok(event)
    }

    fn job_mut(&mut self, job: &JobId) -> Result<&mut DurableJob, FoldError> {
        self.jobs.get_mut(job).ok_or_else(|| FoldError {
            job: job.clone(),
            why: "the job isn't known",
        })
    }

    fn submit(
        &mut self,
        at: Millis,
        id: &JobId,
        request: &str,
        spec: &JobSpec,
        resume: bool,
    ) -> Result<(), FoldError> {
        if self.jobs.contains_key(id) {
            return Err(FoldError {
                job: id.clone(),
                why: "the job was submitted before",
            });
        }
        while self.jobs.len() >= self.max_jobs && self.evict_one() {}
        self.submitted += 1;
        let mut job = DurableJob::new(self.submitted, Arc::new(spec.clone()), at);
        job.request_id = request.to_owned();
        job.resume = resume;
        self.jobs.insert(id.clone(), job);
        Ok(())
    }

    /// Whether another job fits, given that ended ones may be forgotten.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.jobs.len() < self.max_jobs || self.jobs.values().any(|job| job.state.is_terminal())
    }

    fn evict_one(&mut self) -> bool {
        let ended = self.jobs.iter().filter(|(_, job)| job.state.is_terminal());
        let oldest = ended
            .min_by_key(|(_, job)| job.end_number)
            .map(|(id, _)| id.clone());
        oldest.is_some_and(|id| self.jobs.remove(&id).is_some())
    }

    fn change(&mut self, at: Millis, change: &Change) -> Result<(), FoldError> {
        let ended = self.ended + 1;
        let id = change.job();
        let job = self.job_mut(id)?;
        let check = |good: bool, why: &'static str| {
            let job = id.clone();
            if good { Ok(()) } else { Err(FoldError { job, why }) }
        };
        if !matches!(change, Change::Noted { .. }) {
            check(!job.state.is_terminal(), "the job has ended")?;
        }
        match change {
            Change::Planned {
                plan,
                members,
                writer,
                start,
            } => {
                check(plan.epoch > job.epoch(), "its epoch isn't newer than the last")?;
                // Norms are of stages: those of other stages say nothing.
                if job
                    .plan
                    .as_ref()
                    .is_none_or(|before| before.stages != plan.stages)
                {
                    job.stage_norms.clear();
                }
                job.plan = Some(plan.clone());
                job.members.clone_from(members);
                job.former_members.clear();
                job.writer.clone_from(writer);
                job.start.clone_from(start);
                job.connected = None;
                job.finished.clear();
                job.failures.clear();
                job.started_at.get_or_insert(at);
                job.state = JobState::Starting;
            }
            Change::Connected {
                epoch,
                local,
                refills,
                rebuilt,
                save,
                ..
            } => {
                check(job.epoch() == *epoch, "it is of another epoch")?;
                job.rebuilt.clone_from(rebuilt);
                job.connected = Some(Origin {
                    step: *local,
                    refills: refills.clone(),
                    rebuilt: rebuilt.clone(),
                    save: *save,
                });
            }
            Change::Running { epoch, .. } => {
                check(job.epoch() == *epoch, "it is of another epoch")?;
                check(job.state == JobState::Starting, "the job isn't starting")?;
                job.state = JobState::Running;
                job.ran = true;
                job.home_members.clone_from(&job.members);
                job.homes = job
                    .plan
                    .as_ref()
                    .map(|plan| plan.workers.clone())
                    .unwrap_or_default();
                // From memory nothing is run again, so this step is one that no epoch before had reached.
                if job.connected.as_ref().is_some_and(|from| from.step.is_some()) {
                    job.lasting_progress();
                }
            }
            Change::RankFinished { epoch, rank, .. } => {
                check(job.epoch() == *epoch, "it is of another epoch")?;
                job.finished.insert(*rank);
            }
            Change::FailureNoted { epoch, failure, .. } => {
                check(job.epoch() == *epoch, "it is of another epoch")?;
                // A late one changes nothing but the story.
                if job.state != JobState::Recovering {
                    job.failures.push(failure.clone());
                }
            }
            Change::CheckpointCommitted {
                epoch, checkpoint, ..
            } => {
                check(job.epoch() == *epoch, "it is of another epoch")?;
                // What is there now isn't what was found damaged.
                job.refused.remove(&checkpoint.url);
                job.checkpoint = Some(checkpoint.clone());
                job.failed_saves = 0;
                job.save_failure = None;
                job.lasting_progress();
            }
            Change::CheckpointFailed { epoch, message, .. } => {
                check(job.epoch() == *epoch, "it is of another epoch")?;
                job.failed_saves += 1;
                job.save_failure = Some(message.clone());
            }
            Change::Requeued {
                epoch,
                failure,
                refused,
                last_step,
                stage_norms,
                ..
            } => {
                check(job.epoch() == *epoch, "it is of another epoch")?;
                check(job.is_training(), "the job has no trainers to give up")?;
                job.state = JobState::Recovering;
                job.former_members = std::mem::take(&mut job.members);
                job.finished.clear();
                job.failures.clear();
                job.restarts += 1;
                *job.restarts_of.entry(failure.class).or_default() += 1;
                job.losses += 1;
                job.refused.extend(refused.clone());
                job.reached = last_step.or(job.reached);
                if last_step.is_some() {
                    job.stage_norms.clone_from(stage_norms);
                }
            }
            Change::Reloaded { epoch, .. } => {
                check(job.epoch() == *epoch, "it is of another epoch")?;
            }
            Change::IncidentClosed { number, .. } => {
                check(job.story.may_close(*number), "it has no such incident to close")?;
            }
            Change::CancelRequested { save, .. } => {
                job.state = JobState::Cancelling;
                job.save_first = *save;
            }
            Change::Ended {
                state,
                failure,
                last_step,
                ..
            } => {
                check(state.is_terminal(), "the state it ends in isn't an end")?;
                job.state = *state;
                job.failure.clone_from(failure);
                job.last_step.clone_from(last_step);
                job.ended_at = Some(at);
                job.end_number = ended;
                self.ended = ended;
            }
            Change::Submitted { .. } | Change::Noted { .. } => {}
        }
        Ok(())
    }
}
