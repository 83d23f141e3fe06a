//! Who keeps parities of whose state: groups of ranks on different workers, so that the loss of a worker takes one
//! member of a group at most.
//!
//! In: a plan, how many losses a group is to outlive, how many members it is to have at most. Out: the groups. A
//! function of these alone, so that every rank and the coordinator agree without being told.
//!
//! - PL-8 The members of a group are on different workers, and are more than the losses it is to outlive.
//!
//! Deliberately absent: what is kept (`rekindle_vault::parity`), and groups chosen by where machines stand.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use rekindle_types::spec::ParitySpec;
use rekindle_types::{Plan, RankId, WorkerId};

/// The groups, their members in order. A rank is in none where there are too few workers, or too many of the plan's
/// ranks share its worker.
///
/// There are as few groups as the members that a group may have allow, but one for each rank of the busiest worker.
/// Where they would be too small for the losses there are fewer, and larger ones; what a worker has more than there
/// are groups is left out. Workers take turns, the busiest first, each putting its ranks into the smallest groups: so
/// sizes differ by one at most.
#[must_use]
pub fn parity_groups(plan: &Plan, settings: &ParitySpec) -> Vec<Vec<RankId>> {
    let mut workers = BTreeMap::<&WorkerId, Vec<RankId>>::new();
    for (rank, worker) in plan.ranks().zip(&plan.workers) {
        workers.entry(worker).or_default().push(rank);
    }
    let mut workers: Vec<Vec<RankId>> = workers.into_values().collect();
    workers.sort_by_key(|ranks| (Reverse(ranks.len()), ranks.first().copied()));
    let counts: Vec<usize> = workers.iter().map(Vec::len).collect();
    let mut groups = vec![Vec::new(); number(&counts, settings)];
    for ranks in workers {
        let mut smallest: Vec<usize> = (0..groups.len()).collect();
        smallest.sort_by_key(|group| groups[*group].len());
        for (rank, group) in ranks.into_iter().zip(smallest) {
            groups[group].push(rank);
        }
    }
    groups.iter_mut().for_each(|group| group.sort());
    groups
}

/// How many groups there are, for workers with so many ranks each, the busiest first.
fn number(counts: &[usize], settings: &ParitySpec) -> usize {
    let (losses, most) = (settings.losses as usize, settings.group as usize);
    let ranks: usize = counts.iter().sum();
    let wanted = counts
        .first()
        .copied()
        .unwrap_or(0)
        .max(ranks.div_ceil(most.max(1)));
    let smallest = |groups: usize| counts.iter().map(|ranks| ranks.min(&groups)).sum::<usize>() / groups;
    (1..=wanted)
        .rev()
        .find(|groups| smallest(*groups) > losses)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rekindle_types::{Epoch, JobId};

    use super::*;

    fn plan(workers: &[u32]) -> Plan {
        let name = |n: &u32| WorkerId::new(format!("w{n}")).unwrap();
        Plan {
            job: JobId::new("j-1").unwrap(),
            epoch: Epoch(1),
            lanes: 1,
            stages: (0..workers.len() as u32).map(|s| s..s + 1).collect(),
            workers: workers.iter().map(name).collect(),
        }
    }

    fn settings(losses: u32, group: u32) -> ParitySpec {
        ParitySpec {
            losses,
            group,
            ..ParitySpec::default()
        }
    }

    fn of(workers: &[u32], losses: u32, group: u32) -> Vec<Vec<u32>> {
        let groups = parity_groups(&plan(workers), &settings(losses, group));
        let numbers = |group: Vec<RankId>| group.into_iter().map(|rank| rank.0).collect();
        groups.into_iter().map(numbers).collect()
    }

    #[test]
    fn ranks_on_workers_of_their_own_are_dealt_out() {
        assert_eq!(of(&[1, 2, 3], 1, 8), [[0, 1, 2]]);
        assert_eq!(of(&[1, 2, 3, 4], 1, 2), [[0, 2], [1, 3]]);
        assert_eq!(of(&[1, 2, 3, 4, 5], 1, 4), [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(
            of(&[1, 2, 3, 4, 5], 2, 4),
            [[0, 1, 2, 3, 4]],
            "two of two would be too few"
        );
    }

    #[test]
    fn ranks_that_share_a_worker_are_in_different_groups() {
        assert_eq!(of(&[1, 1, 2, 2], 1, 8), [[0, 2], [1, 3]]);
        assert_eq!(of(&[1, 2, 3, 1], 1, 8), [[0, 1], [2, 3]]);
        assert_eq!(
            of(&[1, 1, 1, 2, 3], 1, 8),
            [[0, 3], [1, 4]],
            "rank 2 has nobody left"
        );
        assert!(of(&[1, 1], 1, 8).is_empty());
        assert!(of(&[1, 2], 2, 8).is_empty());
    }

    #[test]
    fn members_are_on_different_workers_and_nobody_is_left_out_who_needn_t_be() {
        // All ways to put up to six ranks on up to four workers.
        for (ranks, losses, group) in (1..=6u32).flat_map(|r| [(r, 1, 8), (r, 1, 2), (r, 2, 3), (r, 3, 8)]) {
            for number in 0..4u32.pow(ranks) {
                let workers: Vec<u32> = (0..ranks).map(|rank| number / 4u32.pow(rank) % 4).collect();
                let groups = of(&workers, losses, group);
                for group in &groups {
                    let places: BTreeSet<u32> = group.iter().map(|rank| workers[*rank as usize]).collect();
                    assert_eq!(places.len(), group.len(), "{workers:?}: {groups:?}");
                    assert!(group.len() > losses as usize, "{workers:?}: {groups:?}");
                }
                let all: Vec<u32> = groups.concat();
                let grouped: BTreeSet<u32> = all.iter().copied().collect();
                assert_eq!(grouped.len(), all.len(), "{workers:?}: {groups:?}");
                // As many as any number of groups with enough members could take.
                let of = |worker| workers.iter().filter(|w| **w == worker).count();
                let taken = |n: usize| (0..4).map(|worker| of(worker).min(n)).sum::<usize>();
                let most = (1..=6)
                    .filter(|n| taken(*n) / n > losses as usize)
                    .map(taken)
                    .max();
                assert_eq!(all.len(), most.unwrap_or(0), "{workers:?}: {groups:?}");
            }
        }
    }
}
