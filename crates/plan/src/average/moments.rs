//! What becomes of Adam's moments.
//!
//! The paper says nothing about them; its code starts a new Adam (both moments 0, count 0). A new second moment makes
//! the first steps of every weight as long as the learning rate whatever the gradient, so blending the neighbours' is
//! offered, too.

use rekindle_types::spec::Moments;

use super::{Result, blend};

/// A source's moments of one layer.
#[derive(Debug, Clone, Copy)]
pub struct MomentSlices<'a> {
    /// The first moment.
    pub exp_avg: &'a [f32],
    /// The second moment.
    pub exp_avg_sq: &'a [f32],
    /// How many steps the source's Adam has made.
    pub steps: u64,
    /// How much the source counts.
    pub share: f64,
}

/// The moments a rebuilt layer starts with.
#[derive(Debug, Clone, PartialEq)]
pub struct StartingMoments {
    /// The first moment.
    pub exp_avg: Vec<f32>,
    /// The second moment.
    pub exp_avg_sq: Vec<f32>,
    /// How many steps its Adam counts as made.
    pub steps: u64,
}

/// The starting moments of a layer of `numel` elements.
///
/// The count is the smallest of the sources': a second moment of few steps is too small for a large count, and the
/// updates would be too long; the other way round they are too short, which is harmless.
///
/// # Errors
/// As [`blend`].
pub fn starting_moments(
    kind: Moments,
    numel: usize,
    sources: &[MomentSlices<'_>],
) -> Result<StartingMoments> {
    let first: Vec<_> = sources.iter().map(|s| (s.exp_avg, s.share)).collect();
    let second: Vec<_> = sources.iter().map(|s| (s.exp_avg_sq, s.share)).collect();
    let kept = sources.iter().map(|s| s.steps).min().unwrap_or(0);
    let zero = || vec![0.0; numel];
    let (exp_avg, exp_avg_sq, steps) = match kind {
        Moments::Fresh => (zero(), zero(), 0),
        Moments::Second => (zero(), blend(&second)?, kept),
        Moments::Both => (blend(&first)?, blend(&second)?, kept),
    };
    Ok(StartingMoments {
        exp_avg,
        exp_avg_sq,
        steps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(kind: Moments) -> StartingMoments {
        let source = |exp_avg, exp_avg_sq, steps, share| MomentSlices {
            exp_avg,
            exp_avg_sq,
            steps,
            share,
        };
        let sources = [source(&[1.0], &[4.0], 9, 0.25), source(&[5.0], &[8.0], 7, 0.75)];
        starting_moments(kind, 1, &sources).unwrap()
    }

    #[test]
    fn each_kind_keeps_what_it_says() {
        let of = |m: f32, v: f32, steps| StartingMoments {
            exp_avg: vec![m],
            exp_avg_sq: vec![v],
            steps,
        };
        assert_eq!(start(Moments::Fresh), of(0.0, 0.0, 0));
        assert_eq!(start(Moments::Second), of(0.0, 7.0, 7));
        assert_eq!(start(Moments::Both), of(4.0, 7.0, 7));
    }
}
