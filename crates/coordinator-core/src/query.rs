//! Read-only questions of the request layer. Answers come from durable state (CO-1), plus progress that isn't
//! journalled.

use rekindle_types::spec::Cadence;
use rekindle_types::{Incident, JobEvent, JobId, JobState};

use crate::durable::Durable;
use crate::durable_job::DurableJob;
use crate::machine::Coordinator;
use crate::run::Run;
use crate::view::{JobView, RankPhase, RankView, Stats, WorkerView};

impl Coordinator {
    /// A job.
    #[must_use]
    pub fn job(&self, id: &JobId) -> Option<JobView> {
        let job = self.visible.job(id)?;
        let run = self.runs.get(id).filter(|run| run.epoch == job.epoch());
        Some(JobView {
            job: id.clone(),
            request_id: job.request_id.clone(),
            spec: (*job.spec).clone(),
            state: job.state,
            reason: self.reason(id, job, run),
            epoch: job.epoch(),
            plan: job.plan.clone(),
            ranks: ranks(job, run),
            submitted_at: job.submitted_at,
            started_at: job.started_at,
            ended_at: job.ended_at,
            last_step: job
                .last_step
                .clone()
                .or_else(|| run.and_then(|run| run.last_step.clone())),
            failure: job.failure.clone(),
            start: job.start.clone(),
            checkpoint: job.checkpoint.clone(),
            failed_saves: job.failed_saves,
            save_failure: job.save_failure.clone(),
            save_interval: match job.spec.checkpoint.every {
                Cadence::Never => None,
                Cadence::Steps(steps) => Some(steps),
                Cadence::Auto => run.and_then(|run| run.interval),
            },
            restarts: job.restarts,
            budgets: crate::budget::budgets(job),
            rebuilt: job.rebuilt.clone(),
        })
    }

    /// Every job kept, in order of submission.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobView> {
        let ids = self.visible.in_order();
        ids.into_iter().filter_map(|id| self.job(id)).collect()
    }

    /// The kept events of a job from number `from` on. None: no such job.
    #[must_use]
    pub fn events(&self, id: &JobId, from: u64) -> Option<Vec<JobEvent>> {
        let job = self.visible.job(id)?;
        Some(
            job.events
                .iter()
                .filter(|event| event.seq >= from)
                .cloned()
                .collect(),
        )
    }

    /// The kept incidents of a job, oldest first. None: no such job.
    #[must_use]
    pub fn incidents(&self, id: &JobId) -> Option<Vec<Incident>> {
        let job = self.visible.job(id)?;
        Some(job.story.incidents.iter().cloned().collect())
    }

    /// The workers that have registered and aren't lost.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerView> {
        let now = self.mono();
        let view = |entry: &crate::registry::Worker| {
            let info = entry.info.as_ref()?;
            Some(WorkerView {
                worker: info.worker.clone(),
                incarnation: info.incarnation,
                version: info.version.clone(),
                data_host: info.data_host.clone(),
                threads: info.threads,
                device: info.device,
                slots: info.slots,
                used: u32::try_from(entry.occupants.len()).unwrap_or(u32::MAX),
                memory_bytes: info.memory_bytes,
                connected: entry.session.is_some(),
                silent_ms: now.saturating_sub(entry.heard),
            })
        };
        self.registry.workers.values().filter_map(view).collect()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// One entry per free trainer slot of the connected workers, for a dry run of `rekindle_plan::place`.
    #[must_use]
    pub fn free_slots(&self) -> Vec<rekindle_plan::Slot> {
        self.registry.free_slots()
    }

    /// The durable state: what folding the journal up to the last `Persisted` record gives.
    #[must_use]
    pub fn durable(&self) -> &Durable {
        &self.visible
    }

    /// The first job that holds up the queue.
    fn queue_head(&self) -> Option<&JobId> {
        let order = self.live.in_order();
        order.into_iter().find(|job| self.queue_notes.contains_key(*job))
    }

    fn reason(&self, id: &JobId, job: &DurableJob, run: Option<&Run>) -> String {
        match job.state {
            JobState::Queued | JobState::Recovering => match self.queue_notes.get(id) {
                Some(why) => why.clone(),
                None => match self.queue_head() {
                    Some(head) => format!("waits behind {head}"),
                    None => "waits for its turn".to_owned(),
                },
            },
            JobState::Planning => "a plan is being made durable".to_owned(),
            JobState::Starting => run.map_or_else(String::new, |run| {
                let ready = run
                    .ranks
                    .iter()
                    .filter(|rank| rank.phase >= RankPhase::Ready)
                    .count();
                format!("{ready} of {} trainers are ready", run.ranks.len())
            }),
            JobState::Running if !job.failures.is_empty() => {
                "a failure is being traced to its cause".to_owned()
            }
            JobState::Running => "steps are being committed".to_owned(),
            JobState::Cancelling if run.is_some_and(|run| run.awaited.is_some()) => {
                "its state is being saved".to_owned()
            }
            JobState::Cancelling => "its trainers are being stopped".to_owned(),
            JobState::Succeeded => "all steps are committed and the model is exported".to_owned(),
            JobState::Cancelled => "ended on the user's wish".to_owned(),
            JobState::Failed => job.failure.as_ref().map_or_else(String::new, crate::notes::told),
        }
    }
}

fn ranks(job: &DurableJob, run: Option<&Run>) -> Vec<RankView> {
    let Some(plan) = &job.plan else {
        return Vec::new();
    };
    let view = |(rank, worker): (rekindle_types::RankId, &rekindle_types::WorkerId)| {
        let state = run.and_then(|run| run.ranks.get(rank.0 as usize));
        let unknown = if job.finished.contains(&rank) {
            RankPhase::Finished
        } else if job.state.is_terminal() {
            RankPhase::Ended
        } else {
            RankPhase::Starting
        };
        RankView {
            rank,
            worker: worker.clone(),
            phase: state.map_or(unknown, |state| state.phase),
            data_address: state.and_then(|state| state.address.clone()),
        }
    };
    plan.ranks().zip(&plan.workers).map(view).collect()
}
