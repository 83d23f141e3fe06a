//! How elements are added: i64 exactly, f32 in order, i128 exactly, u128 modulo 2^128.
//!
//! In: two slices of one length. Out: the sum in the first one, and whether it stayed in range.

use bytemuck::Pod;

/// Elements of large gradients.
pub trait Element: Pod + Send + Sync {
    /// Whether the order of adding changes the result.
    const ORDER_MATTERS: bool;

    /// `sum += part`, element by element. False when a sum left its range (the content of `sum` is then of no
    /// use).
    fn add(sum: &mut [Self], part: &[Self]) -> bool;
}

impl Element for i64 {
    const ORDER_MATTERS: bool = false;

    fn add(sum: &mut [Self], part: &[Self]) -> bool {
        // An overflow shows as a result whose sign differs from both operands'. Collected without a branch,
        // so that it vectorises.
        let mut overflow = 0_i64;
        for (a, &b) in sum.iter_mut().zip(part) {
            let c = a.wrapping_add(b);
            overflow |= (*a ^ c) & (b ^ c);
            *a = c;
        }
        overflow >= 0
    }
}

impl Element for f32 {
    const ORDER_MATTERS: bool = true;

    fn add(sum: &mut [Self], part: &[Self]) -> bool {
        for (a, &b) in sum.iter_mut().zip(part) {
            *a += b;
        }
        true
    }
}

/// Elements of small sums.
pub trait Summand: Pod + Send + Sync {
    /// The sum, `None` when it leaves its range.
    fn sum(self, other: Self) -> Option<Self>;
}

impl Summand for i128 {
    fn sum(self, other: Self) -> Option<Self> {
        self.checked_add(other)
    }
}

/// Digests: defined modulo 2^128.
impl Summand for u128 {
    fn sum(self, other: Self) -> Option<Self> {
        Some(self.wrapping_add(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i64_overflow_is_seen_in_both_directions() {
        let mut sum = [1_i64; 9];
        assert!(Element::add(&mut sum, &[2; 9]));
        assert_eq!(sum, [3; 9]);
        for (a, b) in [(i64::MAX, 1), (i64::MIN, -1)] {
            let mut sum = [0, a, 0];
            assert!(!Element::add(&mut sum, &[0, b, 0]));
        }
        assert!(Element::add(&mut [i64::MAX], &[i64::MIN]));
    }
}
