//! Who keeps a shadow of whom: a copy of a rank's state on another machine, which the loss of that rank's machine leaves alone.
//!
//! In: a plan. Out: the guard of each rank, if there is one. A function of the plan alone, so that every rank and the coordinator agree
//! without being told.
//!
//! - PL-5 Every rank of a plan with more than one worker has a guard, on another worker than its own.
//!
//! Deliberately absent: several guards a rank, and a guard chosen by free memory.

use std::collections::BTreeMap;

use rekindle_types::{Plan, RankId};

/// The guard of each rank. A rank has none where all ranks share one worker.
///
/// Ranks are taken in order. Each gets, of the ranks on other workers, one that guards the fewest so far; of those the next after it.
/// With one rank a worker that is a ring.
#[must_use]
pub fn guards(plan: &Plan) -> BTreeMap<RankId, RankId> {
    let world = plan.world();
    let mut wards = BTreeMap::<RankId, u32>::new();
    let mut guards = BTreeMap::new();
    for rank in plan.ranks() {
        let elsewhere = |other: &RankId| plan.worker_of(*other) != plan.worker_of(rank);
        let after = |distance: u32| RankId((rank.0 + distance) % world);
        let others = (1..world).map(after).filter(elsewhere);
        // The first of equal ones: the nearest.
        if let Some(guard) = others.min_by_key(|other| wards.get(other).copied().unwrap_or(0)) {
            *wards.entry(guard).or_default() += 1;
            guards.insert(rank, guard);
        }
    }
    guards
}

#[cfg(test)]
mod tests {
    use rekindle_types::{Epoch, JobId, WorkerId};

    use super::*;

    fn plan(lanes: u32, workers: &[u32]) -> Plan {
        let stages = u32::try_from(workers.len()).unwrap() / lanes;
        let name = |n: &u32| WorkerId::new(format!("w{n}")).unwrap();
        Plan {
            job: JobId::new("j-1").unwrap(),
            epoch: Epoch(1),
            lanes,
            stages: (0..stages).map(|s| s..s + 1).collect(),
            workers: workers.iter().map(name).collect(),
        }
    }

    fn of(lanes: u32, workers: &[u32]) -> Vec<Option<u32>> {
        let (plan, mut all) = (plan(lanes, workers), Vec::new());
        let guards = guards(&plan);
        all.extend(plan.ranks().map(|rank| guards.get(&rank).map(|guard| guard.0)));
        all
    }

    #[test]
    fn ranks_on_workers_of_their_own_make_a_ring() {
        assert_eq!(of(1, &[1, 2, 3]), [Some(1), Some(2), Some(0)]);
        assert_eq!(of(2, &[1, 2, 3, 4]), [Some(1), Some(2), Some(3), Some(0)]);
    }

    #[test]
    fn the_work_is_shared() {
        assert_eq!(of(1, &[1, 1, 2, 2]), [Some(2), Some(3), Some(0), Some(1)]);
        assert_eq!(of(1, &[1, 2, 1, 2]), [Some(1), Some(2), Some(3), Some(0)]);
        assert_eq!(
            of(1, &[1, 1, 1, 2, 3]),
            [Some(3), Some(4), Some(3), Some(0), Some(1)]
        );
    }

    #[test]
    fn ranks_of_one_worker_have_no_guards() {
        assert_eq!(of(1, &[1]), [None]);
        assert_eq!(of(2, &[1, 1, 1, 1]), [None; 4]);
    }

    #[test]
    fn every_rank_has_a_guard_on_another_worker_if_there_is_one() {
        // All ways to put up to six ranks on up to four workers.
        for ranks in 1..=6u32 {
            for number in 0..4u32.pow(ranks) {
                let workers: Vec<u32> = (0..ranks).map(|rank| number / 4u32.pow(rank) % 4).collect();
                let plan = plan(1, &workers);
                let guards = guards(&plan);
                let shared = workers.iter().all(|worker| *worker == workers[0]);
                assert_eq!(
                    guards.len(),
                    if shared { 0 } else { workers.len() },
                    "{workers:?}"
                );
                for (rank, guard) in &guards {
                    assert_ne!(plan.worker_of(*guard), plan.worker_of(*rank), "{workers:?}");
                }
            }
        }
    }
}
