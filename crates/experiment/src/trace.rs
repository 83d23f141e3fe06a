//! Which stages are lost when: drawn once per seed and rate, then shared by all methods.
//!
//! Iterations are counted as they are run, so a method that runs steps again meets more failures, as it would in a
//! real cluster. Each stage is lost with a fixed probability per iteration, independently (the paper's model). Of two
//! neighbours drawn for one iteration the later one is left out and counted: no neighbour method survives that, and a
//! comparison needs the same failures for all.

use std::collections::BTreeMap;

use rekindle_model::Philox;
use serde::Serialize;

use crate::pipeline::Place;
use rekindle_plan::average::{AverageError, refuse_adjacent};

/// Apart from the keys of weights and samples.
const KEY: u64 = 0x7472_6163_6500_0000;

/// Which stages can be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failing {
    /// Block stages with two neighbours.
    Inner,
    /// All block stages.
    Blocks,
    /// All block stages, the embedding and the head.
    All,
}

/// Stages lost in one iteration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The iteration, from 1.
    pub iteration: u64,
    /// How many of its micro-batches were done; they are lost.
    pub after_micro_batches: u32,
    /// What was lost, in pipeline order, no two neighbours.
    pub places: Vec<Place>,
}

/// All failures of a run, by iteration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    failures: BTreeMap<u64, Failure>,
    left_out: u64,
}

impl Trace {
    /// A trace of given failures.
    ///
    /// # Errors
    /// [`AverageError::Adjacent`] when neighbours are lost together.
    pub fn new(stages: u32, failures: impl IntoIterator<Item = Failure>) -> Result<Self, AverageError> {
        let mut trace = Self::default();
        for failure in failures {
            let places: Vec<_> = failure.places.iter().map(|p| p.index(stages)).collect();
            refuse_adjacent(&places)?;
            trace.failures.insert(failure.iteration, failure);
        }
        Ok(trace)
    }

    /// Draws the failures of `iterations` iterations of a pipeline of `stages` block stages; `rate` is the
    /// probability that one stage is lost in one iteration. A failure strikes after 0 to `micro_batches - 1` of the
    /// iteration's micro-batches.
    #[must_use]
    pub fn draw(
        seed: u64,
        rate: f64,
        failing: Failing,
        stages: u32,
        micro_batches: u32,
        iterations: u64,
    ) -> Self {
        let philox = Philox::new(seed ^ KEY);
        let mut trace = Self::default();
        for iteration in 1..=iterations {
            // 32 bits of iterations are enough for any run; more would only repeat failures.
            let uniform = |code: u32| philox.uniforms([iteration as u32, code, 0, 0])[0];
            let mut places: Vec<Place> = Vec::new();
            for place in candidates(failing, stages) {
                let index = place.index(stages);
                if uniform(index as u32) >= rate {
                    continue;
                }
                match places.last() {
                    Some(last) if last.index(stages) + 1 == index => trace.left_out += 1,
                    _ => places.push(place),
                }
            }
            if !places.is_empty() {
                let after_micro_batches = (uniform(u32::MAX) * f64::from(micro_batches)) as u32;
                let failure = Failure {
                    iteration,
                    after_micro_batches,
                    places,
                };
                trace.failures.insert(iteration, failure);
            }
        }
        trace
    }

    /// What is lost in an iteration.
    #[must_use]
    pub fn at(&self, iteration: u64) -> Option<&Failure> {
        self.failures.get(&iteration)
    }

    /// All failures, in order.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> + Clone {
        self.failures.values()
    }

    /// Failures that were drawn but left out, because a neighbour was lost in the same iteration.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

fn candidates(failing: Failing, stages: u32) -> Vec<Place> {
    let blocks = (0..stages).map(Place::Blocks);
    match failing {
        Failing::Inner => blocks
            .filter(|p| !matches!(p, Place::Blocks(n) if *n == 0 || n + 1 == stages))
            .collect(),
        Failing::Blocks => blocks.collect(),
        Failing::All => std::iter::once(Place::Embed)
            .chain(blocks)
            .chain([Place::Head])
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, rate: f64, failing: Failing) -> Trace {
        Trace::draw(seed, rate, failing, 6, 4, 5000)
    }

    #[test]
    fn a_trace_is_a_function_of_its_seed() {
        assert_eq!(drawn(1, 0.01, Failing::All), drawn(1, 0.01, Failing::All));
        assert_ne!(drawn(1, 0.01, Failing::All), drawn(2, 0.01, Failing::All));
    }

    #[test]
    fn the_rate_is_per_stage_and_iteration() {
        for (failing, stages) in [(Failing::Inner, 4.0), (Failing::Blocks, 6.0), (Failing::All, 8.0)] {
            let trace = drawn(3, 0.01, failing);
            let losses: usize = trace.failures().map(|f| f.places.len()).sum();
            let expected = 5000.0 * 0.01 * stages;
            let found = losses as f64 + trace.left_out() as f64;
            assert!(
                (found - expected).abs() < 4.0 * f64::sqrt(expected),
                "{failing:?}: {found}"
            );
        }
    }

    #[test]
    fn a_higher_rate_keeps_the_failures_of_a_lower_one() {
        let low = drawn(5, 0.002, Failing::Blocks);
        let high = drawn(5, 0.004, Failing::Blocks);
        assert!(low.failures().count() > 20);
        for failure in low.failures() {
            assert!(high.at(failure.iteration).is_some(), "{failure:?}");
        }
    }

    #[test]
    fn neighbours_are_never_lost_together() {
        let trace = drawn(7, 0.3, Failing::All);
        assert!(trace.left_out() > 100);
        for failure in trace.failures() {
            let places: Vec<_> = failure.places.iter().map(|p| p.index(6)).collect();
            assert_eq!(refuse_adjacent(&places), Ok(()));
            assert!(failure.after_micro_batches < 4);
        }
    }

    #[test]
    fn t7_a_given_trace_with_neighbours_is_refused() {
        let failure = |places| Failure {
            iteration: 1,
            after_micro_batches: 0,
            places,
        };
        let apart = failure(vec![Place::Blocks(0), Place::Blocks(2)]);
        assert!(Trace::new(6, [apart]).is_ok());
        let together = failure(vec![Place::Blocks(5), Place::Head]);
        let refused = AverageError::Adjacent { first: 6, second: 7 };
        assert_eq!(Trace::new(6, [together]), Err(refused));
    }
}
