//! State of a job that nobody has any more: whose it is, who had it, and what to say.
//!
//! In: the job, its plan, what the ranks found in memory. Out: the failure that names a rank and the worker with
//! which its state went. Deliberately absent: whether there is another way on ([`crate::begin`], [`crate::recover`]).

use std::collections::BTreeSet;

use rekindle_plan::{end_guards_of, guards_of, twins};
use rekindle_types::{Failure, FailureClass, Plan, RankId, WorkerId};

use crate::average::made_of;
use crate::begin::{found_at, numbered, steps_in_memory};
use crate::durable_job::DurableJob;
use crate::run::RankRun;

/// Why a job can't go on whose state only workers had: that of the `lost` ranks is gone.
pub(crate) fn memory_lost(job: &DurableJob, plan: &Plan, lost: &BTreeSet<RankId>) -> String {
    let (swaps, ends) = (job.spec.recovery.swaps(), end_guards_of(&job.spec, plan));
    let or_shadow = match job.is_shadowed() || job.keeps_parities() || swaps {
        true => "",
        false => " or the source \"shadow\"",
    };
    let no_mean = match job.makes_up().then(|| made_of(job, plan, lost, &BTreeSet::new())) {
        Some(Err(why)) => format!(" (no mean either: {why})"),
        Some(Ok(means)) if means.keys().any(|rank| ends.contains_key(rank)) => {
            " (nor are the embedding or head of an end with the stage beside it)".to_owned()
        }
        _ => String::new(),
    };
    format!(
        "its state is in nobody's memory any more{no_mean}; with [checkpoint]{or_shadow} in the job file the job could go on"
    )
}

/// The failure of a job whose trainers are all ready, and whose state is at no step to be had.
pub(crate) fn nowhere(job: &DurableJob, plan: &Plan, ranks: &[RankRun]) -> Failure {
    let (lost, step) = missing(job, ranks);
    let gone = |rank: &RankId| Some((*rank, went_with(job, plan, ranks, *rank)?));
    let named = lost.iter().find_map(gone);
    let rank = named.as_ref().map(|(rank, _)| *rank).or(lost.first().copied());
    let worker = named.map(|(_, worker)| worker);
    let worker = worker.or_else(|| rank.and_then(|rank| home(job, plan, rank)));
    let lacks = match step.zip(rank) {
        Some((step, rank)) => format!("step {step} lacks {rank}'s state, every other step another rank's; "),
        None => String::new(),
    };
    Failure {
        class: FailureClass::WorkerLost,
        rank,
        worker,
        message: format!("{lacks}{}", memory_lost(job, plan, &lost)),
    }
}

/// The ranks whose state is nowhere at any step. Where there are none, because of each step another rank's is, those
/// of the step (told with them) at which the fewest lack, the newest of such.
fn missing(job: &DurableJob, ranks: &[RankRun]) -> (BTreeSet<RankId>, Option<u64>) {
    let all: BTreeSet<RankId> = numbered(ranks).map(|(rank, _)| rank).collect();
    let steps = steps_in_memory(job, ranks).into_iter();
    let lost: Vec<_> = steps.map(|step| (step, found_at(job, ranks, step).1)).collect();
    let always = lost.iter().fold(all, |all, (_, lost)| &all & lost);
    let fewest = lost.into_iter().min_by_key(|(_, lost)| lost.len());
    match fewest {
        Some((step, lost)) if always.is_empty() => (lost, Some(step)),
        _ => (always, None),
    }
}

/// The worker on which a rank ran when a step was last committed for the first time of an epoch.
fn home(job: &DurableJob, plan: &Plan, rank: RankId) -> Option<WorkerId> {
    let home = job.homes.get(rank.0 as usize).or_else(|| plan.worker_of(rank));
    home.cloned()
}

/// The first worker that had state of a rank, as its own, as its guard or as another lane of its stage, and has none
/// any more. None: all have some, but not of one step.
fn went_with(job: &DurableJob, plan: &Plan, ranks: &[RankRun], rank: RankId) -> Option<WorkerId> {
    let before = Plan {
        workers: plan.ranks().filter_map(|rank| home(job, plan, rank)).collect(),
        ..plan.clone()
    };
    let guards = guards_of(&job.spec, &before).remove(&rank).unwrap_or_default();
    let lanes = twins(plan, rank).filter(|_| job.guards_keep_moments_alone());
    let keepers = [rank].into_iter().chain(guards).chain(lanes);
    let went = |keeper: RankId| {
        let worker = before.worker_of(keeper)?;
        let there = numbered(ranks).filter(|(id, _)| plan.worker_of(*id) == Some(worker));
        let has = |(id, run): (RankId, &RankRun)| {
            let own = id == keeper && !run.in_memory.own.is_empty();
            own || run.in_memory.guarded.contains_key(&rank)
        };
        (!there.into_iter().any(has)).then(|| worker.clone())
    };
    keepers.into_iter().find_map(went)
}
