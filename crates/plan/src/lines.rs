//! Who keeps the newest lines of a job's metrics: rank 0 reports them, and others have them too, for when its machine
//! is lost before all were heard.
//!
//! In: a job's wishes and a plan. Out: the keepers. A function of the two alone, so that every rank agrees without
//! being told.
//!
//! - PL-9 The keepers are on workers of which no two are the same, and there is one more than workers may be lost at
//!   once (or as many as there are workers, where that is fewer). So one that lives has the lines.

use std::collections::BTreeSet;

use rekindle_types::{JobSpec, Plan, RankId};

/// The first rank on each worker, in order: the one that sees to what lies in a worker's memory and isn't any rank's.
#[must_use]
pub fn first_on_workers(plan: &Plan) -> Vec<RankId> {
    let mut seen = BTreeSet::new();
    let ranks = plan.ranks();
    ranks.filter(|rank| seen.insert(plan.worker_of(*rank))).collect()
}

/// The ranks that keep the newest lines, rank 0 first.
#[must_use]
pub fn line_keepers(spec: &JobSpec, plan: &Plan) -> Vec<RankId> {
    let mut keepers = first_on_workers(plan);
    keepers.truncate(1 + spec.recovery.losses_at_once() as usize);
    keepers
}

#[cfg(test)]
mod tests {
    use rekindle_types::spec::RecoverySource;
    use rekindle_types::{Epoch, JobId, WorkerId};

    use super::*;

    fn plan(workers: &[&str]) -> Plan {
        Plan {
            job: JobId::new("j-1").unwrap(),
            epoch: Epoch(1),
            lanes: 1,
            stages: (0..u32::try_from(workers.len()).unwrap())
                .map(|s| s..s + 1)
                .collect(),
            workers: workers.iter().map(|name| WorkerId::new(*name).unwrap()).collect(),
        }
    }

    #[test]
    fn one_keeper_more_than_workers_may_be_lost_and_no_two_on_one() {
        let plan = plan(&["a", "a", "b", "a", "c", "b"]);
        let mut spec = crate::testing::spec();
        let mut keepers = |sources: &[RecoverySource], guards| {
            (spec.recovery.sources, spec.recovery.guards) = (sources.to_vec(), guards);
            let keepers = line_keepers(&spec, &plan).into_iter();
            keepers.map(|rank| rank.0).collect::<Vec<_>>()
        };
        use RecoverySource::{Local, NeighbourAverage, Parity, Shadow};
        assert_eq!(keepers(&[Local], 1), [0]);
        assert_eq!(keepers(&[Local, NeighbourAverage], 1), [0, 2]);
        assert_eq!(keepers(&[Local, Parity], 1), [0, 2]);
        assert_eq!(keepers(&[Local, Shadow], 2), [0, 2, 4]);
        assert_eq!(keepers(&[Local, Shadow], 9), [0, 2, 4], "there are three workers");
    }
}
