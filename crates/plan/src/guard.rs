//! Who keeps shadows of whom: copies of a rank's state on other machines, which the loss of that rank's machine
//! leaves alone.
//!
//! In: a job's wish and a plan. Out: the guards of each rank, or of the ends of the pipeline alone; whether they keep
//! weights, and which other lanes have them. A function of the two alone, so that every rank and the coordinator
//! agree without being told.
//!
//! - PL-5 Every rank of a plan has as many guards as the job wants, or as there are workers besides its own where
//!   that is fewer: on workers of which no two are the same and none is the rank's. So its state outlives the loss of
//!   as many workers as it has guards, whichever they are. Where guards keep moments alone that is so of the moments,
//!   and of the weights as long as lanes of a stage are on as many more workers.
//!
//! Deliberately absent: guards chosen by free memory.

use std::collections::{BTreeMap, BTreeSet};

use rekindle_types::spec::RecoverySource;
use rekindle_types::{JobSpec, LayerId, Plan, Rank, RankId, shard_range};

/// The guards of each rank of a job, see [`guards`]; none where the job wants no shadows.
#[must_use]
pub fn guards_of(spec: &JobSpec, plan: &Plan) -> BTreeMap<RankId, Vec<RankId>> {
    guards(plan, spec.recovery.guards_wanted())
}

/// `count` guards of each rank, fewer where there aren't that many other workers; ranks without any aren't in it.
///
/// Guards are given out in rounds, one to each rank, so that the first ones are those of a job that wants fewer.
/// Ranks are taken in order. Each gets, of the ranks on workers that don't have its state yet, one that guards the
/// fewest so far; of those the next after it. With one rank a worker that is a ring.
#[must_use]
pub fn guards(plan: &Plan, count: u32) -> BTreeMap<RankId, Vec<RankId>> {
    let world = plan.world();
    let mut wards = BTreeMap::<RankId, u32>::new();
    let mut guards = BTreeMap::<RankId, Vec<RankId>>::new();
    for _ in 0..count.min(world) {
        for rank in plan.ranks() {
            let own = guards.entry(rank).or_default();
            let holders: BTreeSet<_> = own.iter().chain([&rank]).map(|r| plan.worker_of(*r)).collect();
            let elsewhere = |other: &RankId| !holders.contains(&plan.worker_of(*other));
            let after = |distance: u32| RankId((rank.0 + distance) % world);
            let others = (1..world).map(after).filter(elsewhere);
            // The first of equal ones: the nearest.
            if let Some(guard) = others.min_by_key(|other| wards.get(other).copied().unwrap_or(0)) {
                *wards.entry(guard).or_default() += 1;
                own.push(guard);
            }
        }
    }
    guards.retain(|_, guards| !guards.is_empty());
    guards
}

/// In a job that swaps: who keeps the embedding of the first stage, and the head of the last one, in step with it:
/// the rank of the stage beside it, which is the one that the rest of the stage would be copied from. A rank that
/// owns nothing of its end isn't in it.
#[must_use]
pub fn end_guards_of(spec: &JobSpec, plan: &Plan) -> BTreeMap<RankId, Vec<RankId>> {
    let stages = plan.stage_count();
    if !spec.recovery.swaps() || stages < 2 {
        return BTreeMap::new();
    }
    let ends = [(0, 1), (stages - 1, stages - 2)];
    let of_lane = |lane: u32| {
        let owns = move |layer| !shard_range(spec.model.layout(layer).numel(), plan.lanes, lane).is_empty();
        let id = move |stage| Rank { lane, stage }.id(stages);
        let ends = ends.into_iter().filter(move |(end, _)| owns(end_layer(*end)));
        ends.map(move |(end, beside)| (id(end), vec![id(beside)]))
    };
    (0..plan.lanes).flat_map(of_lane).collect()
}

/// The layer of an end of the pipeline that the stage beside it has no like of.
pub(crate) fn end_layer(stage: u32) -> LayerId {
    match stage {
        0 => LayerId::Embed,
        _ => LayerId::Head,
    }
}

/// Whether guards keep the moments alone, and a lost rank gets its weights from another lane (source `replica`):
/// where there are more lanes than guards, so that as many losses leave one. Lanes of a stage that share a worker are
/// lost together, so there fewer losses do.
#[must_use]
pub fn moments_alone(spec: &JobSpec, plan: &Plan) -> bool {
    spec.recovery.allows(RecoverySource::Replica) && plan.lanes > spec.recovery.guards_wanted()
}

/// The other ranks of a rank's stage, in lane order: they have its weights.
pub fn twins(plan: &Plan, rank: RankId) -> impl Iterator<Item = RankId> + use<> {
    let (stages, stage) = (plan.stage_count(), plan.rank(rank).stage);
    let all = (0..plan.lanes).map(move |lane| Rank { lane, stage }.id(stages));
    all.filter(move |other| *other != rank)
}

/// What a job that wants more guards than its plan has workers for is told.
#[must_use]
pub fn fewer_guards(spec: &JobSpec, plan: &Plan) -> Option<String> {
    let wanted = spec.recovery.guards_wanted();
    let workers: BTreeSet<_> = plan.workers.iter().collect();
    let most = u32::try_from(workers.len()).unwrap_or(u32::MAX).saturating_sub(1);
    (wanted > most).then(|| {
        format!(
            "recovery.guards = {wanted}, but its ranks are on {} worker(s): each has {most}; with more workers it would have more",
            workers.len()
        )
    })
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

    /// The guards of each rank.
    fn of(lanes: u32, workers: &[u32], count: u32) -> Vec<Vec<u32>> {
        let plan = plan(lanes, workers);
        let guards = guards(&plan, count);
        let of = |rank| guards.get(&rank).into_iter().flatten().map(|guard| guard.0);
        plan.ranks().map(|rank| of(rank).collect()).collect()
    }

    #[test]
    fn ranks_on_workers_of_their_own_make_rings() {
        assert_eq!(of(1, &[1, 2, 3], 1), [[1], [2], [0]]);
        assert_eq!(of(2, &[1, 2, 3, 4], 1), [[1], [2], [3], [0]]);
        assert_eq!(of(1, &[1, 2, 3], 2), [[1, 2], [2, 0], [0, 1]]);
        assert_eq!(of(1, &[1, 2, 3, 4], 2), [[1, 2], [2, 3], [3, 0], [0, 1]]);
    }

    #[test]
    fn the_work_is_shared() {
        assert_eq!(of(1, &[1, 1, 2, 2], 1), [[2], [3], [0], [1]]);
        assert_eq!(of(1, &[1, 2, 1, 2], 1), [[1], [2], [3], [0]]);
        assert_eq!(of(1, &[1, 1, 1, 2, 3], 1), [[3], [4], [3], [0], [1]]);
    }

    #[test]
    fn ranks_of_one_worker_have_no_guards() {
        assert!(guards(&plan(1, &[1]), 1).is_empty());
        assert!(guards(&plan(2, &[1, 1, 1, 1]), 3).is_empty());
        assert!(guards(&plan(1, &[1, 2, 3]), 0).is_empty(), "none are wanted");
    }

    /// All ways to put up to six ranks on up to four workers.
    fn all() -> impl Iterator<Item = Vec<u32>> {
        let of = |ranks: u32| {
            let digit = move |number: u32, rank| number / 4u32.pow(rank) % 4;
            (0..4u32.pow(ranks)).map(move |number| (0..ranks).map(|rank| digit(number, rank)).collect())
        };
        (1..=6).flat_map(of)
    }

    #[test]
    fn any_workers_that_are_lost_leave_every_state_somewhere() {
        for workers in all() {
            let plan = plan(1, &workers);
            let there: BTreeSet<u32> = workers.iter().copied().collect();
            for count in 1..=4 {
                let guards = guards(&plan, count);
                let has = (count as usize).min(there.len() - 1);
                for rank in plan.ranks() {
                    let guards = guards.get(&rank).map_or(&[][..], Vec::as_slice);
                    assert_eq!(guards.len(), has, "{workers:?}, {count} guards of {rank}");
                    let at = |rank: &RankId| workers[rank.0 as usize];
                    let holders: BTreeSet<u32> = guards.iter().chain([&rank]).map(at).collect();
                    // Every set of workers: of as many as there are guards, none has all that hold the state.
                    for lost in 0..1u32 << 4 {
                        if lost.count_ones() as usize <= has {
                            assert!(
                                holders.iter().any(|worker| lost >> worker & 1 == 0),
                                "{workers:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn more_guards_are_added_to_those_of_fewer() {
        for workers in all() {
            let plan = plan(1, &workers);
            let (few, many) = (guards(&plan, 1), guards(&plan, 3));
            for (rank, guard) in few {
                assert_eq!(guard[0], many[&rank][0], "{workers:?}");
            }
        }
    }

    #[test]
    fn guards_have_no_weights_where_more_lanes_have_them_than_may_be_lost() {
        let mut spec = crate::testing::spec();
        let mut alone = |lanes: u32, guards, sources: &[RecoverySource]| {
            (spec.recovery.sources, spec.recovery.guards) = (sources.to_vec(), guards);
            moments_alone(&spec, &plan(lanes, &vec![0; 2 * lanes as usize]))
        };
        use RecoverySource::{Local, Replica, Shadow};
        let all = [Local, Shadow, Replica];
        assert!(alone(2, 1, &all));
        assert!(!alone(1, 1, &all), "nobody else has the weights");
        assert!(!alone(2, 2, &all), "both lanes may be lost at once");
        assert!(alone(3, 2, &all));
        assert!(!alone(2, 1, &[Local, Shadow]));
        let found: Vec<u32> = twins(&plan(3, &[0; 6]), RankId(3)).map(|rank| rank.0).collect();
        assert_eq!(found, [1, 5]);
    }
}
