//! Which blocks of its neighbours a lost stage of a plan is made of.
//!
//! In: a plan, the ranks whose state nobody has, the norms of the stages' last gradients. Out: for each of these
//! ranks the ranks that it is a mean of; or why there is no such mean. Stages of a plan needn't have equally many
//! blocks: block `j` of `n` is made of the block at the same relative place of a neighbour, which with equally many
//! is its block `j`.
//!
//! Where another lane of the stage lives, its weights are the lost ones, and only what the rank alone had, moments,
//! has to be made up.
//!
//! An end of the pipeline that no lane has is a copy of the stage beside it where micro-batches are swapped
//! ([`crate::swap`]), its embedding or head left out: these have no like.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rekindle_types::spec::Weighting;
use rekindle_types::{Plan, Rank, RankId, Share};

use crate::guard::twins;

use super::{AverageError, Result, Source, StageFacts, refuse_adjacent, source_of};

/// What each of the `lost` ranks is a mean of: another lane of its stage, whose weights are the same, or else the
/// ranks of its lane on the stages beside it; an end with `swaps` the rank of the one stage beside it. `part` are
/// ranks of which only what they own can be had. `norms` are those of the stages' last gradients; empty: not known.
///
/// # Errors
/// [`AverageError::NoSource`] for an end of the pipeline that no lane has, but with `swaps`;
/// [`AverageError::Adjacent`], [`AverageError::DeadSource`] for stages next to each other.
pub fn means(
    plan: &Plan,
    swaps: bool,
    lost: &BTreeSet<RankId>,
    part: &BTreeSet<RankId>,
    weighting: Weighting,
    norms: &[f64],
) -> Result<BTreeMap<RankId, Vec<Share>>> {
    let twins: BTreeMap<RankId, RankId> = lost
        .iter()
        .filter_map(|rank| Some((*rank, twin(plan, *rank, lost, part)?)))
        .collect();
    let alone: BTreeSet<RankId> = lost
        .iter()
        .copied()
        .filter(|rank| !twins.contains_key(rank))
        .collect();
    let stages: BTreeSet<u32> = alone.iter().map(|rank| plan.rank(*rank).stage).collect();
    refuse_adjacent(&stages.iter().map(|stage| *stage as usize).collect::<Vec<_>>())?;
    for stage in &stages {
        check(plan, swaps, &alone, *stage)?;
    }
    let mut means = BTreeMap::new();
    for (rank, twin) in twins {
        let whole = Share {
            rank: twin,
            share: 1.0,
        };
        means.insert(rank, vec![whole]);
    }
    for rank in alone {
        means.insert(rank, mean(plan, swaps, rank, lost, (weighting, norms))?);
    }
    Ok(means)
}

/// The first other lane that has all weights of a rank's stage.
fn twin(plan: &Plan, rank: RankId, lost: &BTreeSet<RankId>, part: &BTreeSet<RankId>) -> Option<RankId> {
    let has = |other: &RankId| !lost.contains(other) && !part.contains(other);
    twins(plan, rank).find(has)
}

fn lanes_of(plan: &Plan, stage: u32) -> impl Iterator<Item = RankId> {
    let stages = plan.stage_count();
    (0..plan.lanes).map(move |lane| Rank { lane, stage }.id(stages))
}

fn is_end(plan: &Plan, stage: u32) -> bool {
    stage == 0 || stage + 1 == plan.stage_count()
}

/// A rank as a mean of the stages beside it, in its lane.
fn mean(
    plan: &Plan,
    swaps: bool,
    rank: RankId,
    lost: &BTreeSet<RankId>,
    (weighting, norms): (Weighting, &[f64]),
) -> Result<Vec<Share>> {
    let Rank { lane, stage } = plan.rank(rank);
    let at = |stage: u32| Rank { lane, stage }.id(plan.stage_count());
    let stages = 0..plan.stage_count();
    let facts: Vec<StageFacts> = stages
        .clone()
        .map(|stage| StageFacts {
            layers: Vec::new(),
            alive: !lost.contains(&at(stage)),
        })
        .collect();
    let known = |stage: u32| norms.get(stage as usize).copied().filter(|norm| norm.is_finite());
    let known: Vec<Option<f64>> = stages.map(known).collect();
    let source: Source = source_of(stage as usize, &facts, swaps && is_end(plan, stage))?;
    let share = |part: &super::Part| Share {
        rank: at(u32::try_from(part.stage).unwrap_or(u32::MAX)),
        share: part.share,
    };
    Ok(source
        .mix(weighting, &known, 0.0)?
        .parts()
        .iter()
        .map(share)
        .collect())
}

fn check(plan: &Plan, swaps: bool, alone: &BTreeSet<RankId>, stage: u32) -> Result<()> {
    let no_source = |why| {
        Err(AverageError::NoSource {
            what: format!("stage {stage}"),
            why,
        })
    };
    if is_end(plan, stage) && !swaps {
        return no_source(
            "it is an end of the pipeline, which no other stage is the like of; with \"swap\" in recovery.sources the one beside it would be",
        );
    }
    let blocks = blocks(plan);
    let has_blocks = |beside: u32| {
        let [lost, source] = [stage, beside].map(|stage| &plan.stages[stage as usize]);
        like(lost.start.max(blocks.start), lost, source, &blocks).is_some()
    };
    let beside = match stage {
        0 => vec![1],
        last if last + 1 == plan.stage_count() => vec![last - 1],
        inner => vec![inner - 1, inner + 1],
    };
    if !beside.into_iter().all(has_blocks) {
        return no_source("a stage beside it has no blocks");
    }
    match lanes_of(plan, stage).all(|rank| alone.contains(&rank)) {
        true => Ok(()),
        false => no_source("a guard or a group has but a part of its weights"),
    }
}

/// The layers of a plan that are blocks: all but the first, the embedding, and the last, the head.
#[must_use]
pub fn blocks(plan: &Plan) -> Range<u32> {
    1..plan.stages.last().map_or(1, |last| last.end.saturating_sub(1))
}

/// The layer of stage `source` that layer `layer` of stage `lost` is made of; both are ranges of layers in pipeline
/// order, `blocks` those that are blocks.
#[must_use]
pub fn like(layer: u32, lost: &Range<u32>, source: &Range<u32>, blocks: &Range<u32>) -> Option<u32> {
    let of = |stage: &Range<u32>| stage.start.max(blocks.start)..stage.end.min(blocks.end);
    let (lost, source) = (of(lost), of(source));
    if !lost.contains(&layer) || source.is_empty() {
        return None;
    }
    let (at, here, there) = (layer - lost.start, lost.len() as u32, source.len() as u32);
    Some(source.start + (2 * at + 1) * there / (2 * here))
}

#[cfg(test)]
mod tests {
    use rekindle_types::{Epoch, JobId, WorkerId};

    use super::*;

    fn plan(lanes: u32, stages: u32) -> Plan {
        Plan {
            job: JobId::new("j-1").unwrap(),
            epoch: Epoch(1),
            lanes,
            stages: (0..stages).map(|s| 2 * s..2 * s + 2).collect(),
            workers: vec![WorkerId::new("w").unwrap(); (lanes * stages) as usize],
        }
    }

    fn of(lanes: u32, stages: u32, lost: &[u32], norms: &[f64]) -> Result<BTreeMap<RankId, Vec<Share>>> {
        let lost = lost.iter().copied().map(RankId).collect();
        means(
            &plan(lanes, stages),
            false,
            &lost,
            &BTreeSet::new(),
            Weighting::Norm,
            norms,
        )
    }

    fn share(rank: u32, share: f64) -> Share {
        Share {
            rank: RankId(rank),
            share,
        }
    }

    #[test]
    fn a_lost_stage_is_a_mean_of_its_lane_s_neighbours() {
        let means = of(1, 5, &[1, 3], &[3.0, 9.0, 1.0, 9.0, 1.0]).unwrap();
        assert_eq!(means[&RankId(1)], [share(0, 0.75), share(2, 0.25)]);
        assert_eq!(means[&RankId(3)], [share(2, 0.5), share(4, 0.5)]);
        let means = of(2, 3, &[1, 4], &[]).unwrap();
        assert_eq!(means[&RankId(1)], [share(0, 0.5), share(2, 0.5)]);
        assert_eq!(means[&RankId(4)], [share(3, 0.5), share(5, 0.5)]);
    }

    #[test]
    fn another_lane_has_the_same_weights_at_the_ends_too() {
        let means = of(2, 3, &[0, 4], &[]).unwrap();
        assert_eq!(means[&RankId(0)], [share(3, 1.0)]);
        assert_eq!(means[&RankId(4)], [share(1, 1.0)]);
        // A stage that nobody has beside a rank whose moments are gone: nothing is made of what is made up.
        let dead = of(2, 3, &[0, 1, 4], &[]);
        assert!(matches!(dead, Err(AverageError::DeadSource { .. })), "{dead:?}");
    }

    #[test]
    fn what_has_no_like_is_refused() {
        let no_source = |of: Result<_>| matches!(of, Err(AverageError::NoSource { .. }));
        assert!(no_source(of(1, 4, &[0], &[])));
        assert!(no_source(of(1, 4, &[3], &[])));
        let part = BTreeSet::from([RankId(4)]);
        let lost = BTreeSet::from([RankId(1)]);
        let made = means(&plan(2, 3), false, &lost, &part, Weighting::Norm, &[]);
        assert!(no_source(made), "of the other lane a guard has but a part");
        let mut narrow = plan(1, 3);
        narrow.stages = vec![0..1, 1..4, 4..6];
        let lost = BTreeSet::from([RankId(1)]);
        assert!(
            no_source(means(
                &narrow,
                false,
                &lost,
                &BTreeSet::new(),
                Weighting::Norm,
                &[]
            )),
            "only the embedding"
        );
        let adjacent = Err(AverageError::Adjacent { first: 1, second: 2 });
        assert_eq!(of(1, 4, &[1, 2], &[]), adjacent);
    }

    #[test]
    fn with_swapped_micro_batches_an_end_is_a_copy_of_the_stage_beside_it_and_the_inner_ones_are_means() {
        let of = |lanes, lost: &[u32]| {
            let lost = lost.iter().copied().map(RankId).collect();
            means(
                &plan(lanes, 5),
                true,
                &lost,
                &BTreeSet::new(),
                Weighting::Norm,
                &[],
            )
        };
        let made = of(1, &[0, 2, 4]).unwrap();
        assert_eq!(made[&RankId(0)], [share(1, 1.0)]);
        assert_eq!(made[&RankId(2)], [share(1, 0.5), share(3, 0.5)]);
        assert_eq!(made[&RankId(4)], [share(3, 1.0)]);
        assert_eq!(of(1, &[1]).unwrap()[&RankId(1)], [share(0, 0.5), share(2, 0.5)]);
        let made = of(2, &[4, 9]).unwrap();
        assert_eq!(
            (&made[&RankId(4)], &made[&RankId(9)]),
            (&vec![share(3, 1.0)], &vec![share(8, 1.0)])
        );
        assert_eq!(
            of(2, &[5]).unwrap()[&RankId(5)],
            [share(0, 1.0)],
            "another lane has all of it"
        );
        for (lost, first) in [([0, 1], 0), ([3, 4], 3)] {
            let second = first + 1;
            assert_eq!(of(1, &lost), Err(AverageError::Adjacent { first, second }));
        }
    }

    #[test]
    fn blocks_are_made_of_those_at_the_same_place() {
        // Layers: embedding 0, blocks 1 to 8, head 9.
        let blocks = 1..9;
        let made = |lost: &Range<u32>, source: &Range<u32>| -> Vec<u32> {
            let of = |layer| like(layer, lost, source, &blocks).unwrap();
            lost.clone().map(of).collect()
        };
        assert_eq!(made(&(3..5), &(0..3)), [1, 2], "the embedding isn't one");
        assert_eq!(made(&(5..7), &(7..10)), [7, 8], "nor is the head");
        assert_eq!(made(&(3..6), &(6..8)), [6, 7, 7]);
        assert_eq!(made(&(3..4), &(4..7)), [5], "the middle one");
        assert_eq!(like(3, &(3..5), &(0..1), &blocks), None);
        assert_eq!(like(0, &(0..2), &(2..4), &blocks), None);
    }
}
