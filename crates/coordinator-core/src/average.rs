//! A state that nobody has, made of the stages beside it or of another lane's weights: whether that may be, and of what
//! (`rekindle_plan::average`).
//!
//! Only where the job allows `neighbour_average`, and only what no memory has: an exact source is always taken first.
//! What is made up is written down with the plan ([`Rebuilt`]): the job's state isn't the undisturbed run's from
//! there on, and says so wherever it is told.

use std::collections::{BTreeMap, BTreeSet};

use rekindle_plan::average::{AverageError, blocks, means};
use rekindle_plan::end_guards_of;
use rekindle_types::spec::{Moments, RecoverySource};
use rekindle_types::{Origin, Plan, RankId, Rebuilt, Refill, Share, rebuilt_by, rebuilt_with};

use crate::begin::{best, found_at, steps_in_memory};
use crate::durable_job::DurableJob;
use crate::run::RankRun;

/// What the `lost` ranks may be made of, where of the ranks in `part` others have only what those own.
///
/// # Errors
/// Why they may not.
pub(crate) fn made_of(
    job: &DurableJob,
    plan: &Plan,
    lost: &BTreeSet<RankId>,
    part: &BTreeSet<RankId>,
) -> Result<BTreeMap<RankId, Vec<Share>>, AverageError> {
    let recovery = &job.spec.recovery;
    let (swaps, weighting) = (recovery.swaps(), recovery.average_weights);
    means(plan, swaps, lost, part, weighting, &job.stage_norms)
}

/// Whether the ends of the pipeline that are made of the stage beside them have their embedding or head there, too,
/// as of `step`.
fn have_their_ends(
    job: &DurableJob,
    plan: &Plan,
    ranks: &[RankRun],
    (step, means): (u64, &BTreeMap<RankId, Vec<Share>>),
) -> bool {
    let ends = end_guards_of(&job.spec, plan);
    let has = |(rank, shares): (&RankId, &Vec<Share>)| {
        let beside = |share: &&Share| plan.rank(share.rank).stage != plan.rank(*rank).stage;
        let kept = |share: &Share| {
            let guarded = ranks.get(share.rank.0 as usize)?.in_memory.guarded.get(rank)?;
            guarded.contains(&step).then_some(())
        };
        !ends.contains_key(rank) || shares.iter().filter(beside).all(|share| kept(share).is_some())
    };
    means.iter().all(has)
}

impl DurableJob {
    /// Whether the job makes up what nobody has: it is allowed to, and doesn't rather go back to a checkpoint or
    /// begin again.
    #[must_use]
    pub fn makes_up(&self) -> bool {
        let recovery = &self.spec.recovery;
        let allowed = self.ran && recovery.allows(RecoverySource::NeighbourAverage);
        allowed && (recovery.rather_averages() || !self.goes_back_to_checkpoints())
    }
}

/// The newest step that all ranks have in memory but some whose state can be made of the others'. None where none is
/// behind the plan's start: that is exact.
pub(crate) fn made_up(job: &DurableJob, plan: &Plan, ranks: &[RankRun]) -> Option<Origin> {
    if !job.makes_up() {
        return None;
    }
    let start = job.start.as_ref().map_or(0, |start| start.step);
    let at = |step: u64| {
        let (refills, lost) = found_at(job, ranks, step);
        let part = refills.keys().copied().collect();
        let means = made_of(job, plan, &lost, &part).ok()?;
        have_their_ends(job, plan, ranks, (step, &means)).then_some((step, (refills, means)))
    };
    let steps = steps_in_memory(job, ranks).into_iter();
    let all: Vec<_> = steps.filter(|step| *step > start).filter_map(at).collect();
    let (step, (mut refills, means)) = best(job, ranks, &all)?;
    let rebuilt = rebuilt(job, plan, step, &means);
    let refill = |shares: Vec<Share>| match job.spec.recovery.average_by_loss && shares.len() > 1 {
        true => Refill::Best { best_of: shares },
        false => Refill::Mean(shares),
    };
    refills.extend(means.into_iter().map(|(rank, shares)| (rank, refill(shares))));
    Some(Origin {
        step: Some(step),
        refills,
        rebuilt,
        save: job.owes_checkpoint(step),
    })
}

/// The job's made up layers at `step`, with those that `means` makes up after it.
fn rebuilt(job: &DurableJob, plan: &Plan, step: u64, means: &BTreeMap<RankId, Vec<Share>>) -> Vec<Rebuilt> {
    let (before, blocks) = (rebuilt_by(&job.rebuilt, step), &blocks(plan));
    let stage_of = |rank: RankId| {
        let stages = plan.stages.get(plan.rank(rank).stage as usize);
        stages.cloned().unwrap_or(0..0)
    };
    let began = |layer: u32| {
        let known = before.iter().find(|rebuilt| rebuilt.layer == layer);
        known.map_or(0, |rebuilt| rebuilt.count_from)
    };
    let new = means.iter().flat_map(|(rank, shares)| {
        let twin = shares.iter().all(|share| stage_of(share.rank) == stage_of(*rank));
        // The count is the smallest of the sources'; another lane has only the moments of its own part.
        let sources = shares.iter().flat_map(|share| stage_of(share.rank));
        let count_from = match job.spec.recovery.average_moments {
            _ if twin => step,
            Moments::Fresh => step,
            Moments::Second | Moments::Both => sources.map(began).max().unwrap_or(0),
        };
        // The embedding or head of an end isn't made of anything: it is what was lost.
        let made_up = stage_of(*rank).filter(move |layer| twin || blocks.contains(layer));
        made_up.map(move |layer| Rebuilt {
            layer,
            after: step,
            count_from,
        })
    });
    rebuilt_with(&before, new.collect::<Vec<_>>())
}
