//! Sums of `f64` over ranks that don't depend on who adds what: 128-bit fixed point.

use std::fmt;

/// Fractional bits of a loss.
const LOSS_BITS: i32 = 60;
/// Fractional bits of a sum of squares.
const SQUARES_BITS: i32 = 80;

/// An exact sum in fixed point. Add with [`ExactSum::add`]; losses and squares have different units and must not be
/// mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ExactSum(pub i128);

fn to_fixed(value: f64, bits: i32) -> Option<i128> {
    let scaled = (value * 2f64.powi(bits)).round_ties_even();
    // One bit is left for sums; sums of more are checked where they are added.
    (scaled.abs() < 2f64.powi(126)).then_some(scaled as i128)
}

impl ExactSum {
    /// A micro-batch's summed loss, in units of 2^-60. None if it isn't finite or is beyond 2^66.
    #[must_use]
    pub fn of_loss(sum: f64) -> Option<Self> {
        to_fixed(sum, LOSS_BITS).map(Self)
    }

    /// A block's sum of squares, in units of 2^-80. None if it isn't finite or is beyond 2^46.
    #[must_use]
    pub fn of_squares(sum: f64) -> Option<Self> {
        to_fixed(sum, SQUARES_BITS).map(Self)
    }

    /// The sum, None on overflow.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // `+` can't be refused
    pub fn add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The mean loss per token of a sum made of [`ExactSum::of_loss`].
    #[must_use]
    pub fn mean_loss(self, tokens: u64) -> f64 {
        self.0 as f64 / 2f64.powi(LOSS_BITS) / tokens.max(1) as f64
    }

    /// The root of a sum made of [`ExactSum::of_squares`]: the gradient norm.
    #[must_use]
    pub fn norm(self) -> f64 {
        (self.0 as f64 / 2f64.powi(SQUARES_BITS)).sqrt()
    }
}

impl fmt::Display for ExactSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#034x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_show_and_bad_values_are_refused() {
        let values = [1e-9, 3.75, 1e6, 0.1, 7e-13];
        let sum = |order: &[usize]| {
            order.iter().fold(ExactSum::default(), |s, &i| {
                s.add(ExactSum::of_squares(values[i]).unwrap()).unwrap()
            })
        };
        assert_eq!(sum(&[0, 1, 2, 3, 4]), sum(&[4, 2, 0, 3, 1]));
        let want: f64 = values.iter().sum();
        assert!((sum(&[0, 1, 2, 3, 4]).norm() - want.sqrt()).abs() < 1e-12 * want);
        for bad in [f64::NAN, f64::INFINITY, 1e30] {
            assert_eq!(ExactSum::of_squares(bad), None);
            assert_eq!(ExactSum::of_loss(bad), None);
        }
        assert_eq!(ExactSum::of_loss(5.5).unwrap().mean_loss(2), 2.75);
        assert_eq!(ExactSum(i128::MAX).add(ExactSum(1)), None);
    }
}
