//! Which state a job starts from: asked for before a plan is made, so that every rank is told the same.

use std::collections::{BTreeMap, BTreeSet};

use rekindle_plan::{line_keepers, twins};
use rekindle_types::clock::Mono;
use rekindle_types::spec::RecoverySource;
use rekindle_types::{
    Epoch, Failure, FailureClass, JobId, JobState, Origin, Plan, RankId, Refill, StartPoint, rebuilt_by,
};

use crate::average::made_up;
use crate::durable_job::DurableJob;
use crate::machine::Coordinator;
use crate::nowhere::nowhere;
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

/// Ranks with their numbers.
pub(crate) fn numbered(ranks: &[RankRun]) -> impl Iterator<Item = (RankId, &RankRun)> {
    (0..).map(RankId).zip(ranks)
}

/// A rank whose worker has the state of `rank` at a step that `wanted` allows, which a guard left there. None in a
/// job that swaps, whose guards keep but the embedding or the head.
fn keeper(
    job: &DurableJob,
    ranks: &[RankRun],
    rank: RankId,
    wanted: impl Fn(&u64) -> bool,
) -> Option<RankId> {
    if job.spec.recovery.swaps() {
        return None;
    }
    let has = |other: &RankRun| {
        let steps = other.in_memory.guarded.get(&rank);
        steps.is_some_and(|steps| steps.iter().any(&wanted))
    };
    numbered(ranks).find(|(_, other)| has(other)).map(|(id, _)| id)
}

/// Whether another lane of its stage has the weights of `step`.
fn has_twin(job: &DurableJob, ranks: &[RankRun], rank: RankId, step: u64) -> bool {
    let has = |twin: RankId| {
        let twin = ranks.get(twin.0 as usize);
        twin.is_some_and(|run| run.in_memory.own.contains(&step))
    };
    job.plan.as_ref().is_some_and(|plan| twins(plan, rank).any(has))
}

/// The ranks that don't have the state of `step` in their own worker's memory, and who has it. None: a rank's is
/// nowhere.
fn senders(job: &DurableJob, ranks: &[RankRun], step: u64) -> Option<BTreeMap<RankId, Refill>> {
    let (refills, lost) = found_at(job, ranks, step);
    lost.is_empty().then_some(refills)
}

/// Where the ranks get the state of `step` from that don't have it in their own worker's memory, and those whose
/// state is nowhere.
pub(crate) fn found_at(
    job: &DurableJob,
    ranks: &[RankRun],
    step: u64,
) -> (BTreeMap<RankId, Refill>, BTreeSet<RankId>) {
    let (mut refills, mut lost) = (BTreeMap::new(), BTreeSet::new());
    for (rank, _) in numbered(ranks).filter(|(_, run)| !run.in_memory.own.contains(&step)) {
        let whole = !job.guards_keep_moments_alone() || has_twin(job, ranks, rank, step);
        let guard = keeper(job, ranks, rank, |held| *held == step).filter(|_| whole);
        let guard = guard.map(Refill::Guard);
        match guard.or_else(|| in_sets(job, ranks, rank, step).map(Refill::Parity)) {
            Some(refill) => drop(refills.insert(rank, refill)),
            None => drop(lost.insert(rank)),
        }
    }
    (refills, lost)
}

/// The steps whose state is in some rank's memory, newest first; none before the one that the plan starts from.
pub(crate) fn steps_in_memory(job: &DurableJob, ranks: &[RankRun]) -> Vec<u64> {
    let start = job.start.as_ref().map_or(0, |start| start.step);
    let memory = |run: &RankRun| {
        let guarded = run.in_memory.guarded.values().flatten();
        let steps = run.in_memory.own.iter().chain(guarded);
        steps.copied().filter(|step| *step >= start).collect::<Vec<_>>()
    };
    let in_sets = parity::steps(ranks).filter(|step| *step >= start);
    let steps: BTreeSet<u64> = ranks.iter().flat_map(memory).chain(in_sets).collect();
    steps.into_iter().rev().collect()
}

/// The first of those, newest first, whose step's report was heard; where there is none, the first that a keeper of
/// lines has its own state of, and so the line (`rekindle_plan::line_keepers`, WK-12); and else the first.
pub(crate) fn best<T: Clone>(job: &DurableJob, ranks: &[RankRun], found: &[(u64, T)]) -> Option<(u64, T)> {
    let heard = |step: u64| job.reached.is_some_and(|reached| step <= reached);
    let keepers = keepers_before(job);
    let kept = |step: u64| {
        let mut all = keepers.iter().filter_map(|rank| ranks.get(rank.0 as usize));
        all.any(|run| run.in_memory.own.contains(&step))
    };
    let first = |is: &dyn Fn(u64) -> bool| found.iter().find(|(step, _)| is(*step));
    first(&heard).or_else(|| first(&kept)).or(found.first()).cloned()
}

/// The ranks that kept lines where the job ran before: one that has moved since has no state of its own.
fn keepers_before(job: &DurableJob) -> Vec<RankId> {
    let before = job.plan.as_ref().map(|plan| Plan {
        workers: job.homes.clone(),
        ..plan.clone()
    });
    before.map_or_else(Vec::new, |before| line_keepers(&job.spec, &before))
}

/// The newest step that all ranks have in memory (their own worker's or that of others, where their guard or their
/// group left it) and whose report was heard: a step that was committed but never reported is run again, so that its
/// line is written. Where no such step is there, see [`best`].
fn in_every_memory(job: &DurableJob, ranks: &[RankRun]) -> Option<(u64, BTreeMap<RankId, Refill>)> {
    if !job.spec.recovery.allows(RecoverySource::Local) {
        return None;
    }
    let steps = steps_in_memory(job, ranks).into_iter();
    let all: Vec<_> = steps
        .filter_map(|step| Some((step, senders(job, ranks, step)?)))
        .collect();
    best(job, ranks, &all)
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

    /// What the trainers of a plan start from, once all are ready: a step that every one of them has in memory, else
    /// what the plan says. Decided once an epoch, and durable before anybody is told. None: the job fails, as its
    /// state can't be had.
    pub(crate) fn decide_start(&mut self, id: &JobId, plan: &Plan) -> Option<Origin> {
        let job = self.live.job(id)?;
        if let Some(decided) = &job.connected {
            return Some(decided.clone());
        }
        let run = self.runs.get(id)?;
        let exact = in_every_memory(job, &run.ranks).map(|(step, refills)| Origin {
            step: Some(step),
            refills,
            rebuilt: rebuilt_by(&job.rebuilt, step),
            save: job.owes_checkpoint(step),
        });
        let found = exact.or_else(|| made_up(job, plan, &run.ranks));
        if found.is_none() && job.lives_in_memory() {
            let failure = nowhere(job, plan, &run.ranks);
            // Steps are committed, and nothing that may be used has their state: it is never silently trained again
            // from the beginning.
            self.end(id, JobState::Failed, Some(failure));
            return None;
        }
        let rebuilt = job
            .start
            .as_ref()
            .map_or_else(Vec::new, |start| start.rebuilt.clone());
        let from = found.unwrap_or(Origin {
            rebuilt,
            ..Origin::default()
        });
        self.record(Change::Connected {
            job: id.clone(),
            epoch: plan.epoch,
            local: from.step,
            refills: from.refills.clone(),
            rebuilt: from.rebuilt.clone(),
            save: from.save,
        });
        Some(from)
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

    /// A job that has committed steps isn't given up because its store is away for a while; one that is only about to
    /// start is told at once.
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

    /// When searches are made again. One whose time came before the last tick, and that wasn't made, waits for its
    /// job's turn in the queue.
    pub(crate) fn search_deadlines(&self) -> impl Iterator<Item = Mono> + '_ {
        let ticked = self.ticked;
        self.searches.values().filter_map(move |search| match search {
            Search::Later { at, .. } if *at > ticked => Some(*at),
            _ => None,
        })
    }
}
