//! Which state a job starts from: asked for before a plan is made, so that every rank is told the same.

use std::collections::{BTreeMap, BTreeSet};

use rekindle_types::clock::Mono;
use rekindle_types::spec::RecoverySource;
use rekindle_types::{
    Epoch, Failure, FailureClass, JobId, JobState, Parities, Plan, RankId, StartPoint, WorkerId,
};

use crate::durable_job::{DurableJob, FromMemory};
use crate::machine::Coordinator;
use crate::parity::{self, in_sets};
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
pub(crate) fn memory_lost(job: &DurableJob) -> &'static str {
    match job.is_shadowed() || job.keeps_parities() {
        true => {
            "its state is in nobody's memory any more; with [checkpoint] in the job file the job could go on"
        }
        false => {
            "its state is in nobody's memory any more; with [checkpoint] or the source \"shadow\" in the job file the job could go on"
        }
    }
}

/// Ranks with their numbers.
fn numbered(ranks: &[RankRun]) -> impl Iterator<Item = (RankId, &RankRun)> {
    (0..).map(RankId).zip(ranks)
}

/// A rank whose worker has the state of `rank` at a step that `wanted` allows, which a guard left there.
fn keeper(ranks: &[RankRun], rank: RankId, wanted: impl Fn(&u64) -> bool) -> Option<RankId> {
    let has = |other: &RankRun| {
        let steps = other.in_memory.guarded.get(&rank);
        steps.is_some_and(|steps| steps.iter().any(&wanted))
    };
    numbered(ranks).find(|(_, other)| has(other)).map(|(id, _)| id)
}

/// Who has the state of ranks that don't have it in their own worker's memory as of the last steps: guards, sets of parities.
type Others = (BTreeMap<RankId, RankId>, BTreeMap<RankId, Parities>);

/// The ranks that don't have the state of `step` in their own worker's memory, and who has it. None: a rank's is nowhere.
fn senders(job: &DurableJob, ranks: &[RankRun], step: u64) -> Option<Others> {
    let mut others = Others::default();
    for (rank, _) in numbered(ranks).filter(|(_, run)| !run.in_memory.own.contains(&step)) {
        match keeper(ranks, rank, |held| *held == step) {
            Some(guard) => drop(others.0.insert(rank, guard)),
            None => drop(others.1.insert(rank, in_sets(job, ranks, rank, step)?)),
        }
    }
    Some(others)
}

/// The newest step that all ranks have in memory (their own worker's or that of others, where their guard or their group left it) and whose report was
/// heard: a step that was committed but never reported is run again, so that its line is written. Where no such step is there, the newest that
/// all have.
fn in_every_memory(job: &DurableJob, ranks: &[RankRun]) -> Option<(u64, Others)> {
    if !job.spec.recovery.sources.contains(&RecoverySource::Local) {
        return None;
    }
    let start = job.start.as_ref().map_or(0, |start| start.step);
    let memory = |run: &RankRun| {
        let guarded = run.in_memory.guarded.values().flatten();
        run.in_memory
            .own
            .iter()
            .chain(guarded)
            .copied()
            .collect::<Vec<_>>()
    };
    let steps: BTreeSet<u64> = ranks
        .iter()
        .flat_map(memory)
        .chain(parity::steps(ranks))
        .filter(|step| *step >= start)
        .collect();
    let found = steps.into_iter().rev();
    let all: Vec<_> = found
        .filter_map(|step| Some((step, senders(job, ranks, step)?)))
        .collect();
    let heard = |(step, _): &&(u64, _)| job.reached.is_some_and(|reached| *step <= reached);
    all.iter().find(heard).or(all.first()).cloned()
}

/// The first rank whose state is nowhere.
fn forgotten(job: &DurableJob, ranks: &[RankRun]) -> Option<RankId> {
    let lost = |(rank, run): &(RankId, &RankRun)| {
        run.in_memory.own.is_empty()
            && keeper(ranks, *rank, |_| true).is_none()
            && !parity::steps(ranks).any(|step| in_sets(job, ranks, *rank, step).is_some())
    };
    numbered(ranks).find(lost).map(|(rank, _)| rank)
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
        if let Some(decided) = &job.connected {
            return Some(decided.clone());
        }
        let run = self.runs.get(id)?;
        let found = in_every_memory(job, &run.ranks);
        if found.is_none() && job.lives_in_memory() {
            let missing = forgotten(job, &run.ranks);
            let had = |rank: RankId| job.homes.get(rank.0 as usize).or_else(|| plan.worker_of(rank));
            let (worker, why) = (missing.and_then(had).cloned(), memory_lost(job));
            self.refuse_to_begin_again(id, missing, worker, why);
            return None;
        }
        let local = found.as_ref().map(|(step, _)| *step);
        let (guards, parities) = found.map(|(_, others)| others).unwrap_or_default();
        let save = local.is_some_and(|step| job.owes_checkpoint(step));
        self.record(Change::Connected {
            job: id.clone(),
            epoch: plan.epoch,
            local,
            guards: guards.clone(),
            parities: parities.clone(),
            save,
        });
        Some(FromMemory {
            step: local,
            guards,
            parities,
            save,
        })
    }

    /// Steps are committed, and nothing that may be used has their state: it is never silently trained again from the beginning.
    fn refuse_to_begin_again(
        &mut self,
        id: &JobId,
        rank: Option<RankId>,
        worker: Option<WorkerId>,
        why: &str,
    ) {
        let failure = Failure {
            class: FailureClass::WorkerLost,
            rank,
            worker,
            message: why.to_owned(),
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
