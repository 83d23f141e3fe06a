//! Which state a job starts from: asked for before a plan is made, so that every rank is told the same.

use rekindle_types::clock::Mono;
use rekindle_types::spec::RecoverySource;
use rekindle_types::{Epoch, Failure, FailureClass, JobId, JobState, Plan, RankId, StartPoint};

use crate::durable_job::{DurableJob, FromMemory};
use crate::machine::Coordinator;
use crate::run::RankRun;
use crate::{Change, Effect, NotFound, StartSearch};

/// How far the search for a job's first state is. Not journalled: after a restart it is made again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Search {
    /// The shell looks.
    Asked {
        /// When it was asked for the first time.
        since: Mono,
    },
    /// The store didn't answer: it is asked again.
    Later {
        /// When it was asked for the first time.
        since: Mono,
        /// When it is asked again.
        at: Mono,
    },
    /// It has looked: this state, or none but the job's first weights; the epoch has to be newer than this.
    Found(Option<StartPoint>, Epoch),
}

/// Why a job can't go on whose state only workers had.
pub(crate) const MEMORY_LOST: &str =
    "its state is in nobody's memory any more; with [checkpoint] in the job file the job could go on";

/// The newest step that all ranks have in memory and whose report was heard: a step that was committed but never reported is run again, so
/// that its line is written. Where no such step is there, the newest that all have.
fn in_every_memory(job: &DurableJob, ranks: &[RankRun]) -> Option<u64> {
    let allowed = job.spec.recovery.sources.contains(&RecoverySource::Local);
    let start = job.start.as_ref().map_or(0, |start| start.step);
    let everywhere = |step: &u64| ranks.iter().all(|rank| rank.in_memory.contains(step));
    let first = ranks.first().filter(|_| allowed)?;
    let all = || {
        let steps = first.in_memory.iter().copied();
        steps.filter(|step| *step >= start).filter(everywhere)
    };
    let heard = |step: &u64| job.reached.is_some_and(|reached| *step <= reached);
    all().filter(heard).max().or_else(|| all().max())
}

impl Coordinator {
    /// The state the job is to start from, and the epoch of its next plan; None while that isn't known yet.
    pub(crate) fn start_point(&mut self, id: &JobId) -> Option<(Option<StartPoint>, Epoch)> {
        let job = self.live.job(id)?;
        let saves = job.spec.checkpoint.is_on();
        if !saves && !job.resume && job.spec.init_checkpoint().is_none() {
            return Some((None, job.epoch().next()));
        }
        let now = self.mono();
        let since = match self.searches.get(id) {
            Some(Search::Found(start, after)) => {
                return Some((start.clone(), job.epoch().max(*after).next()));
            }
            Some(Search::Asked { .. }) => return None,
            Some(Search::Later { at, .. }) if now < *at => return None,
            Some(Search::Later { since, .. }) => *since,
            None => now,
        };
        let search = match (job.state, job.resume) {
            (JobState::Recovering, _) => StartSearch::Again,
            (_, true) => StartSearch::Resume,
            (_, false) => StartSearch::Fresh,
        };
        let (spec, refused) = (job.spec.clone(), job.refused.clone());
        self.searches.insert(id.clone(), Search::Asked { since });
        let after = self.after();
        self.emit(Effect::FindStart {
            job: id.clone(),
            spec,
            search,
            refused,
            after,
        });
        None
    }

    /// What the trainers of a plan start from, once all are ready: a step that every one of them has in memory, else what the plan says.
    /// Decided once an epoch, and durable before anybody is told. None: the job fails, as its state can't be had.
    pub(crate) fn decide_start(&mut self, id: &JobId, plan: &Plan) -> Option<FromMemory> {
        let job = self.live.job(id)?;
        if let Some(decided) = job.connected {
            return Some(decided);
        }
        let run = self.runs.get(id)?;
        let local = in_every_memory(job, &run.ranks);
        if local.is_none() && job.lives_in_memory() {
            let missing = run.ranks.iter().position(|rank| rank.in_memory.is_empty());
            self.refuse_to_begin_again(id, plan, missing);
            return None;
        }
        let save = local.is_some_and(|step| job.owes_checkpoint(step));
        self.record(Change::Connected {
            job: id.clone(),
            epoch: plan.epoch,
            local,
            save,
        });
        Some(FromMemory { step: local, save })
    }

    /// Steps are committed, and nothing that may be used has their state: it is never silently trained again from the beginning.
    fn refuse_to_begin_again(&mut self, id: &JobId, plan: &Plan, missing: Option<usize>) {
        let rank = missing.and_then(|rank| u32::try_from(rank).ok()).map(RankId);
        let worker = rank.and_then(|rank| plan.workers.get(rank.0 as usize)).cloned();
        let failure = Failure {
            class: FailureClass::WorkerLost,
            rank,
            worker,
            message: MEMORY_LOST.to_owned(),
        };
        self.end(id, JobState::Failed, Some(failure));
    }

    pub(crate) fn start_found(
        &mut self,
        id: &JobId,
        found: Result<Option<StartPoint>, NotFound>,
        after_epoch: Epoch,
        notes: Vec<(String, String)>,
    ) {
        let waits = self
            .state_of(id)
            .is_some_and(|state| matches!(state, JobState::Queued | JobState::Recovering));
        let Some(Search::Asked { since }) = self.searches.get(id).cloned().filter(|_| waits) else {
            return;
        };
        for (kind, detail) in notes {
            self.note(id, &kind, detail);
        }
        match found {
            Ok(start) => {
                self.searches
                    .insert(id.clone(), Search::Found(start, after_epoch));
            }
            Err(why) => self.not_found(id, since, why),
        }
        self.place_queue();
    }

    /// A job that has committed steps isn't given up because its store is away for a while; one that is only about to start is told at once.
    fn not_found(&mut self, id: &JobId, since: Mono, why: NotFound) {
        let now = self.mono();
        let goes_on = self.state_of(id) == Some(JobState::Recovering);
        if why.passes && goes_on && now < since + self.config.search_limit {
            let at = now + self.config.search_pause;
            self.searches.insert(id.clone(), Search::Later { since, at });
            self.note(
                id,
                "checkpoint.unreachable",
                format!("{}; it is asked again", why.message),
            );
            return;
        }
        let class = match why.passes {
            true => FailureClass::CheckpointIo,
            false => FailureClass::ConfigInvalid,
        };
        let failure = Failure {
            class,
            rank: None,
            worker: None,
            message: why.message,
        };
        self.end(id, JobState::Failed, Some(failure));
    }

    /// When searches are made again.
    pub(crate) fn search_deadlines(&self) -> impl Iterator<Item = Mono> + '_ {
        self.searches.values().filter_map(|search| match search {
            Search::Later { at, .. } => Some(*at),
            _ => None,
        })
    }
}
