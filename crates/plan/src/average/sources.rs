//! Who stands in for whom, and in which order swapped micro-batches visit the stages.
//!
//! Inner stages are blended from both neighbours. An edge has one neighbour and is copied from it. With swapped
//! micro-batches (CheckFree+) the two first and the two last stages have learned each other's work and are copied
//! from each other; the paper says so of the edges alone, its code does it both ways.

use rekindle_types::spec::Weighting;

use super::{AverageError, Mix, Result, shares};

/// What has to be known of a block stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageFacts {
    /// Elements of each of its layers.
    pub layers: Vec<usize>,
    /// Whether its state exists.
    pub alive: bool,
}

/// What a lost stage is rebuilt from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A copy of this stage.
    Copy(usize),
    /// A mean of these two.
    Blend(usize, usize),
}

impl Source {
    /// The shares, by the gradient norms of all block stages, see [`shares`].
    ///
    /// # Errors
    /// As [`shares`].
    pub fn mix(self, weighting: Weighting, norms: &[Option<f64>], epsilon: f64) -> Result<Mix> {
        match self {
            Self::Copy(stage) => Ok(Mix::copy(stage)),
            Self::Blend(left, right) => {
                let norm = |stage: usize| norms.get(stage).copied().flatten();
                let [share, _] = shares(weighting, [norm(left), norm(right)], epsilon)?;
                Ok(Mix::of(left, right, share))
            }
        }
    }
}

/// Refuses places of a pipeline (embedding 0, block stages, head) of which two are next to each other.
///
/// # Errors
/// [`AverageError::Adjacent`] with the first such pair.
pub fn refuse_adjacent(lost: &[usize]) -> Result<()> {
    let mut places = lost.to_vec();
    places.sort_unstable();
    match places.windows(2).find(|w| w[1] == w[0] + 1) {
        Some(w) => Err(AverageError::Adjacent {
            first: w[0],
            second: w[1],
        }),
        None => Ok(()),
    }
}

/// What block stage `stage` is rebuilt from, checked: every source lives and has the lost stage's shape.
///
/// # Errors
/// [`AverageError::NoSource`], [`AverageError::DeadSource`], [`AverageError::Shape`], [`AverageError::TooFewToSwap`].
pub fn source_of(stage: usize, facts: &[StageFacts], swapped: bool) -> Result<Source> {
    let source = choose(stage, facts.len(), swapped)?;
    match source {
        Source::Copy(from) => check(stage, from, facts)?,
        Source::Blend(left, right) => {
            check(stage, left, facts)?;
            check(stage, right, facts)?;
        }
    }
    Ok(source)
}

/// The stage before `stage` (behind it for the first), checked as [`source_of`] does: the plain copy that averages
/// are compared with.
///
/// # Errors
/// As [`source_of`].
pub fn copy_of(stage: usize, facts: &[StageFacts]) -> Result<Source> {
    let from = match choose(stage, facts.len(), false)? {
        Source::Copy(from) | Source::Blend(from, _) => from,
    };
    check(stage, from, facts)?;
    Ok(Source::Copy(from))
}

fn choose(stage: usize, stages: usize, swapped: bool) -> Result<Source> {
    if stages < 2 || stage >= stages {
        return Err(AverageError::NoSource {
            what: format!("stage {}", stage + 1),
            why: "there is no other block stage beside it",
        });
    }
    if swapped {
        check_swap(stages)?;
        let twins = [(0, 1), (stages - 2, stages - 1)];
        for (a, b) in twins {
            if stage == a || stage == b {
                return Ok(Source::Copy(if stage == a { b } else { a }));
            }
        }
    }
    Ok(match stage {
        0 => Source::Copy(1),
        last if last == stages - 1 => Source::Copy(stages - 2),
        inner => Source::Blend(inner - 1, inner + 1),
    })
}

fn check(lost: usize, source_stage: usize, facts: &[StageFacts]) -> Result<()> {
    let (have, want) = (&facts[source_stage], &facts[lost]);
    if !have.alive {
        return Err(AverageError::DeadSource { lost, source_stage });
    }
    if have.layers != want.layers {
        return Err(AverageError::Shape {
            lost,
            source_stage,
            have: have.layers.clone(),
            want: want.layers.clone(),
        });
    }
    Ok(())
}

fn check_swap(stages: usize) -> Result<()> {
    if stages < 4 {
        return Err(AverageError::TooFewToSwap { stages });
    }
    Ok(())
}

/// The block stages in the order in which a micro-batch visits them; `swapped`: the two first and the two last change
/// places.
///
/// # Errors
/// [`AverageError::TooFewToSwap`] below 4 stages.
pub fn visiting_order(stages: usize, swapped: bool) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = (0..stages).collect();
    if swapped {
        check_swap(stages)?;
        order.swap(0, 1);
        order.swap(stages - 2, stages - 1);
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(stages: usize, lost: &[usize]) -> Vec<StageFacts> {
        let stage = |n| StageFacts {
            layers: vec![10, 10],
            alive: !lost.contains(&n),
        };
        (0..stages).map(stage).collect()
    }

    #[test]
    fn inner_stages_blend_and_edges_copy() {
        let of = |stage, swapped| source_of(stage, &facts(6, &[stage]), swapped).unwrap();
        assert_eq!([0, 1, 4, 5].map(|s| of(s, false)), {
            use Source::{Blend, Copy};
            [Copy(1), Blend(0, 2), Blend(3, 5), Copy(4)]
        });
        assert_eq!([0, 1, 4, 5].map(|s| of(s, true)), [1, 0, 5, 4].map(Source::Copy));
        assert_eq!(
            [2, 3].map(|s| of(s, true)),
            [Source::Blend(1, 3), Source::Blend(2, 4)]
        );
        assert_eq!(
            [0, 1, 5].map(|s| copy_of(s, &facts(6, &[s])).unwrap()),
            [1, 0, 4].map(Source::Copy)
        );
    }

    #[test]
    fn t3_stages_of_other_shapes_are_refused() {
        let mut all = facts(4, &[1]);
        all[2].layers = vec![10];
        assert!(matches!(
            source_of(1, &all, false),
            Err(AverageError::Shape {
                lost: 1,
                source_stage: 2,
                ..
            })
        ));
    }

    #[test]
    fn t7_neighbours_that_are_lost_together_are_refused() {
        assert_eq!(refuse_adjacent(&[5, 2, 0]), Ok(()));
        let refused = Err(AverageError::Adjacent { first: 2, second: 3 });
        assert_eq!(refuse_adjacent(&[3, 5, 2]), refused);
        for swapped in [false, true] {
            let dead = Err(AverageError::DeadSource {
                lost: 4,
                source_stage: 5,
            });
            assert_eq!(source_of(4, &facts(6, &[4, 5]), swapped), dead);
        }
    }

    #[test]
    fn t6_odd_micro_batches_visit_the_ends_in_the_other_order() {
        assert_eq!(visiting_order(6, false).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(visiting_order(6, true).unwrap(), [1, 0, 2, 3, 5, 4]);
        assert_eq!(visiting_order(4, true).unwrap(), [1, 0, 3, 2]);
        assert_eq!(
            visiting_order(3, true),
            Err(AverageError::TooFewToSwap { stages: 3 })
        );
    }

    #[test]
    fn a_lone_stage_has_no_source() {
        let refused = source_of(0, &facts(1, &[0]), false);
        assert!(matches!(refused, Err(AverageError::NoSource { .. })));
    }

    #[test]
    fn a_mix_follows_the_norms_of_the_neighbours() {
        let norms = [None, Some(1.0), None, Some(3.0)];
        let mix = Source::Blend(1, 3).mix(Weighting::Norm, &norms, 0.0).unwrap();
        assert_eq!(mix, Mix::of(1, 3, 0.25));
    }
}
