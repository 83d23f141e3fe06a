//! How likely losses are to take what nobody else has, by the model of [`super`]: in a job, a plan and how much is
//! expected to be lost while a state is exposed, out probabilities of one loss being one too many.

use std::collections::{BTreeMap, BTreeSet};

use rekindle_types::{JobSpec, Plan, RankId, WorkerId};

use super::{ParityReport, parity};
use crate::guard::{moments_alone, twins};

/// Probability of at least `count` events of a Poisson process that expects `mean`.
pub(super) fn at_least(count: usize, mean: f64) -> f64 {
    let term = (1..=count).fold((-mean).exp(), |term, n| term * mean / n as f64);
    // Terms fall at once: a mean is a minute over hours.
    let more = (count + 1..count + 50).scan(term, |term, n| {
        *term *= mean / n as f64;
        Some(*term)
    });
    if count == 0 { 1.0 } else { term + more.sum::<f64>() }
}

/// The probability that all lanes of a stage are lost together, where guards don't keep the weights.
pub(super) fn twins_fail(spec: &JobSpec, plan: &Plan, exposed: f64) -> f64 {
    if !moments_alone(spec, plan) {
        return 0.0;
    }
    let holders = |rank| -> (RankId, Vec<RankId>) { (rank, twins(plan, rank).collect()) };
    let machines = |(rank, twins): &(RankId, Vec<RankId>)| {
        let all = twins.iter().chain([rank]);
        all.filter_map(|rank| plan.worker_of(*rank))
            .collect::<BTreeSet<_>>()
            .len()
    };
    let all: Vec<_> = plan.ranks().map(holders).collect();
    let fewest = all.iter().map(machines).min().unwrap_or(1);
    let sets = all
        .into_iter()
        .filter(|holders| machines(holders) == fewest)
        .collect();
    at_least(fewest - 1, exposed) * fatal_share(plan, &sets)
}

/// Of all sets of as many machines as hold a rank's state, the share that holds some rank's.
pub(super) fn fatal_share(plan: &Plan, guards: &BTreeMap<RankId, Vec<RankId>>) -> f64 {
    let machines: BTreeSet<&WorkerId> = plan.workers.iter().collect();
    let holders = |(rank, guards): (&RankId, &Vec<RankId>)| -> BTreeSet<&WorkerId> {
        let all = guards.iter().chain([rank]);
        all.filter_map(|rank| plan.worker_of(*rank)).collect()
    };
    let sets: BTreeSet<_> = guards.iter().map(holders).collect();
    let size = sets.iter().map(BTreeSet::len).max().unwrap_or(0);
    let n = machines.len() as f64;
    let all = (0..size).fold(1.0, |all, taken| all * (n - taken as f64) / (taken + 1) as f64);
    if sets.is_empty() {
        1.0
    } else {
        sets.len() as f64 / all
    }
}

/// The probability that groups can't work out what a lost machine had.
pub(super) fn parity_fails(spec: &JobSpec, plan: &Plan, soon: f64) -> f64 {
    let Some(ParityReport { groups, without, .. }) = parity(spec, plan) else {
        return 1.0;
    };
    let machines: BTreeSet<&WorkerId> = plan.workers.iter().collect();
    let without = without.iter().filter_map(|rank| plan.worker_of(*rank));
    let exposed: BTreeSet<_> = without.collect();
    let exposed = exposed.len() as f64 / machines.len() as f64;
    let pairs = |group: &Vec<RankId>| -> Vec<(RankId, RankId)> {
        let with = |a: &RankId| group.iter().map(|b| (*a, *b)).collect::<Vec<_>>();
        group.iter().flat_map(with).collect()
    };
    let again = soon * partners(plan, groups.iter().flat_map(pairs));
    exposed + (1.0 - exposed) * again.powf(f64::from(spec.recovery.parity.losses))
}

/// The mean share of the other machines that share a rank's state with a machine, by pairs of ranks that do.
fn partners(plan: &Plan, ranks: impl Iterator<Item = (RankId, RankId)>) -> f64 {
    let mut pairs = BTreeSet::new();
    let machines: BTreeSet<&WorkerId> = plan.workers.iter().collect();
    for (one, other) in ranks {
        if let (Some(a), Some(b)) = (plan.worker_of(one), plan.worker_of(other))
            && a != b
        {
            pairs.insert((a.min(b), a.max(b)));
        }
    }
    let n = machines.len();
    2.0 * pairs.len() as f64 / (n * (n - 1)).max(1) as f64
}
