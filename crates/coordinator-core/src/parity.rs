//! What sets of states and parities in the workers' memory give back (source `parity`).
//!
//! In: what the trainers of a plan found. Out: for a rank and a step, the sets that have its state: its own, or those
//! of its group, where as many are left as it takes. Sets of two epochs, or of two groups, never go together.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use rekindle_plan::parity_groups;
use rekindle_types::{Epoch, Parities, Plan, RankId};

use crate::durable_job::DurableJob;
use crate::run::RankRun;

/// The ranks that have sets of a group's exchange.
type Kept<'a> = BTreeMap<(Reverse<Epoch>, &'a [RankId]), Vec<RankId>>;

/// Where `rank` gets the state of `step` from. None: it is in no set, or too few of its group's are left.
pub(crate) fn in_sets(job: &DurableJob, ranks: &[RankRun], rank: RankId, step: u64) -> Option<Parities> {
    if !job.keeps_parities() {
        return None;
    }
    let mut kept = Kept::new();
    for (holder, run) in (0..).map(RankId).zip(ranks) {
        let sets = run.in_memory.parity.iter().filter(|set| set.step == step);
        for set in sets.filter(|set| set.members.contains(&rank) && set.members.contains(&holder)) {
            let from = kept.entry((Reverse(set.epoch), &set.members)).or_default();
            from.push(holder);
        }
    }
    let losses = job.spec.recovery.parity.losses as usize;
    let enough = |((_, members), from): &(&(Reverse<Epoch>, &[RankId]), &Vec<RankId>)| {
        from.contains(&rank) || from.len() + losses >= members.len()
    };
    let ((Reverse(epoch), members), from) = kept.iter().find(enough)?;
    Some(Parities {
        epoch: *epoch,
        members: members.to_vec(),
        from: from.clone(),
    })
}

/// The steps of all sets.
pub(crate) fn steps(ranks: &[RankRun]) -> impl Iterator<Item = u64> + '_ {
    let sets = ranks.iter().flat_map(|run| &run.in_memory.parity);
    sets.map(|set| set.step)
}

/// The ranks whose groups lost no more members than they outlive, if `lost` are gone.
pub(crate) fn outlived(job: &DurableJob, plan: &Plan, lost: &BTreeSet<RankId>) -> BTreeSet<RankId> {
    if !job.keeps_parities() {
        return BTreeSet::new();
    }
    let settings = &job.spec.recovery.parity;
    let lost_of = |group: &Vec<RankId>| group.iter().filter(|rank| lost.contains(rank)).count();
    let groups = parity_groups(plan, settings).into_iter();
    let outlive = groups.filter(|group| lost_of(group) <= settings.losses as usize);
    outlive.flatten().collect()
}
