//! How much each source counts.
//!
//! The authors' code adds 1e-4 to each norm; that is an option.

use rekindle_types::spec::Weighting;
use serde::Serialize;

use super::{AverageError, Result};

/// A stage that is read and its share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Part {
    /// The block stage, from 0.
    pub stage: usize,
    /// Between 0 and 1.
    pub share: f64,
}

/// What a stage is rebuilt from: one stage (a copy) or two. The shares add up to 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mix(Vec<Part>);

impl Mix {
    /// A copy of one stage.
    #[must_use]
    pub fn copy(stage: usize) -> Self {
        Self(vec![Part { stage, share: 1.0 }])
    }

    /// Two stages; `share` of the first, between 0 and 1 (clamped), the rest of the second.
    #[must_use]
    pub fn of(first: usize, second: usize, share: f64) -> Self {
        let share = share.clamp(0.0, 1.0);
        let part = |stage, share| Part { stage, share };
        Self(vec![part(first, share), part(second, 1.0 - share)])
    }

    /// The parts, in pipeline order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.0
    }
}

/// The shares of two neighbours whose last gradients have these L2 norms. A norm that isn't known yet (nothing was
/// trained) counts as 1. `epsilon` is added to each weight (0 in the paper, 1e-4 in its code). Two weights of 0 share
/// equally.
///
/// # Errors
/// [`AverageError::Norm`] for a norm that is negative or not finite.
pub fn shares(weighting: Weighting, norms: [Option<f64>; 2], epsilon: f64) -> Result<[f64; 2]> {
    let norms = norms.map(|n| n.unwrap_or(1.0));
    if let Some(&norm) = norms.iter().find(|n| !(n.is_finite() && **n >= 0.0)) {
        return Err(AverageError::Norm { norm });
    }
    // Relative to the larger one, so that no square leaves the range of numbers.
    let largest = norms[0].max(norms[1]);
    let weight = |norm: f64| match weighting {
        Weighting::Uniform => 1.0,
        Weighting::Norm => norm + epsilon,
        Weighting::Squared if largest > 0.0 => (norm / largest).powi(2) + epsilon / largest / largest,
        Weighting::Squared => epsilon,
    };
    let (first, second) = (weight(norms[0]), weight(norms[1]));
    if first + second == 0.0 || !(first + second).is_finite() {
        return Ok([0.5, 0.5]);
    }
    let share = first / (first + second);
    Ok([share, 1.0 - share])
}

#[cfg(test)]
mod tests {
    use super::super::blend;
    use super::*;

    /// T1: a value of 2 and of 6, with norms 0.5 and 1.5.
    fn example(weighting: Weighting, epsilon: f64) -> f32 {
        let [a, b] = shares(weighting, [Some(0.5), Some(1.5)], epsilon).unwrap();
        blend(&[(&[2.0], a), (&[6.0], b)]).unwrap()[0]
    }

    #[test]
    fn t1_the_worked_example() {
        assert_eq!(example(Weighting::Norm, 0.0), 5.0);
        assert!((example(Weighting::Norm, 1e-4) - 4.9999).abs() < 1e-6);
        assert!((example(Weighting::Squared, 0.0) - 5.6).abs() < 1e-6);
        assert_eq!(example(Weighting::Uniform, 0.0), 4.0);
    }

    #[test]
    fn t2_equal_norms_give_the_mean() {
        for weighting in [Weighting::Uniform, Weighting::Norm, Weighting::Squared] {
            for norm in [1e-30, 0.3, 1e200] {
                assert_eq!(shares(weighting, [Some(norm); 2], 0.0).unwrap(), [0.5, 0.5]);
            }
        }
    }

    #[test]
    fn t4_two_norms_of_zero_share_equally() {
        for weighting in [Weighting::Norm, Weighting::Squared] {
            assert_eq!(shares(weighting, [Some(0.0); 2], 0.0).unwrap(), [0.5, 0.5]);
            assert_eq!(
                shares(weighting, [Some(0.0), Some(2.0)], 0.0).unwrap(),
                [0.0, 1.0]
            );
        }
    }

    #[test]
    fn t8_before_the_first_gradient_norms_count_as_one() {
        assert_eq!(shares(Weighting::Squared, [None, None], 0.0).unwrap(), [0.5, 0.5]);
        assert_eq!(
            shares(Weighting::Norm, [None, Some(3.0)], 0.0).unwrap(),
            [0.25, 0.75]
        );
    }

    #[test]
    fn norms_that_are_none_are_refused() {
        for norm in [-1.0, f64::NAN, f64::INFINITY] {
            let refused = shares(Weighting::Norm, [Some(1.0), Some(norm)], 0.0);
            assert!(matches!(refused, Err(AverageError::Norm { .. })), "{norm}");
        }
    }
}
