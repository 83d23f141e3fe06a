//! What survives the coordinator: the fold of its journal.
//!
//! In: records, in order. Out: jobs, and one line of history per record. Invariant CO-2 rests on [`Durable::apply`] being
//! the only way to change anything here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rekindle_types::{
    Epoch, Failure, JobEvent, JobId, JobSpec, JobState, Plan, RankId, StartPoint, StepReport, WorkerId,
};

use crate::notes::note;
use crate::story::Story;
use crate::{Change, CommittedCheckpoint, Config, Millis, Record};

/// A record that doesn't fit the records before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record about job {job} doesn't fit what came before it: {why}")]
pub struct FoldError {
    /// The job.
    pub job: JobId,
    /// What doesn't fit.
    pub why: &'static str,
}

/// A job as the journal knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct DurableJob {
    /// Counts submissions; the queue's order.
    pub number: u64,
    /// The request that made it; empty: none.
    pub request_id: String,
    /// What it runs.
    pub spec: Arc<JobSpec>,
    /// Whether it is to go on from the newest valid checkpoint in its place.
    pub resume: bool,
    /// Where it stands.
    pub state: JobState,
    /// The newest plan.
    pub plan: Option<Plan>,
    /// Names the plan's trainers in the keys of checkpoint files.
    pub writer: String,
    /// The state the plan's trainers started from.
    pub start: Option<StartPoint>,
    /// The newest committed checkpoint.
    pub checkpoint: Option<CommittedCheckpoint>,
    /// Checkpoints that failed since the last that didn't.
    pub failed_saves: u32,
    /// Why the last one failed.
    pub save_failure: Option<String>,
    /// Plans that ended badly since the last checkpoint.
    pub restarts: u32,
    /// Plans that ended badly.
    pub losses: u32,
    /// URLs of checkpoints that turned out to be damaged.
    pub refused: BTreeSet<String>,
    /// Whether a cancelled job's state is to be saved before its trainers are stopped.
    pub save_first: bool,
    /// Incarnations of the plan's workers.
    pub members: BTreeMap<WorkerId, u64>,
    /// Ranks of the plan that are through.
    pub finished: BTreeSet<RankId>,
    /// What went wrong under the plan, in order, until the verdict.
    pub failures: Vec<Failure>,
    /// What was lost so far, and what became of it.
    pub story: Story,
    /// The verdict.
    pub failure: Option<Failure>,
    /// The last committed step, known at the end.
    pub last_step: Option<StepReport>,
    /// When it was submitted.
    pub submitted_at: Millis,
    /// When its first plan was made.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Counts ends; the order of eviction.
    pub end_number: u64,
    /// The newest lines of its history.
    pub events: VecDeque<JobEvent>,
    /// Number of lines of its history.
    pub event_count: u64,
}

impl DurableJob {
    /// Epoch of the newest plan, 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.plan.as_ref().map_or(Epoch(0), |plan| plan.epoch)
    }

    /// Mean time between failures at `now`, seconds: the time the job has run and the time that was expected to pass without a
    /// failure before any was seen, by one more than the failures.
    #[must_use]
    pub fn mtbf_seconds(&self, now: Millis) -> f64 {
        let ran = now.saturating_sub(self.started_at.unwrap_or(now)) as f64 / 1e3;
        (ran + self.spec.checkpoint.mtbf_hours * 3600.0) / f64::from(self.losses + 1)
    }

    /// Whether trainers of the plan are wanted.
    #[must_use]
    pub fn is_training(&self) -> bool {
        matches!(self.state, JobState::Starting | JobState::Running)
    }

    /// Whether the state after the last step is in a committed checkpoint, if the job saves any.
    #[must_use]
    pub fn is_saved(&self) -> bool {
        let steps = self.spec.training.steps;
        let saved = self.checkpoint.as_ref().map(|checkpoint| checkpoint.step);
        let loaded = self.start.as_ref().map(|start| start.step);
        !self.spec.checkpoint.is_on() || saved.max(loaded).is_some_and(|step| step >= steps)
    }

    /// Whether every rank of the plan is through.
    #[must_use]
    pub fn all_finished(&self) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|plan| plan.ranks().all(|rank| self.finished.contains(&rank)))
    }
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
        let job = DurableJob {
            number: self.submitted,
            request_id: request.to_owned(),
            spec: Arc::new(spec.clone()),
            resume,
            state: JobState::Queued,
            plan: None,
            writer: String::new(),
            start: None,
            checkpoint: None,
            failed_saves: 0,
            save_failure: None,
            restarts: 0,
            losses: 0,
            refused: BTreeSet::new(),
            save_first: false,
            members: BTreeMap::new(),
            finished: BTreeSet::new(),
            failures: Vec::new(),
            story: Story::default(),
            failure: None,
            last_step: None,
            submitted_at: at,
            started_at: None,
            ended_at: None,
            end_number: 0,
            events: VecDeque::new(),
            event_count: 0,
        };
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
                job.plan = Some(plan.clone());
                job.members.clone_from(members);
                job.writer.clone_from(writer);
                job.start.clone_from(start);
                job.finished.clear();
                job.failures.clear();
                job.started_at.get_or_insert(at);
                job.state = JobState::Starting;
            }
            Change::Running { epoch, .. } => {
                check(job.epoch() == *epoch, "it is of another epoch")?;
                check(job.state == JobState::Starting, "the job isn't starting")?;
                job.state = JobState::Running;
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
                job.checkpoint = Some(checkpoint.clone());
                job.failed_saves = 0;
                job.save_failure = None;
                job.restarts = 0;
            }
            Change::CheckpointFailed { epoch, message, .. } => {
                check(job.epoch() == *epoch, "it is of another epoch")?;
                job.failed_saves += 1;
                job.save_failure = Some(message.clone());
            }
            Change::Requeued { epoch, refused, .. } => {
                check(job.epoch() == *epoch, "it is of another epoch")?;
                check(job.is_training(), "the job has no trainers to give up")?;
                job.state = JobState::Recovering;
                job.members.clear();
                job.finished.clear();
                job.failures.clear();
                job.restarts += 1;
                job.losses += 1;
                job.refused.extend(refused.clone());
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
