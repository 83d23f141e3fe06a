//! The two element types: `f32` for training, `f64` as the reference.
//!
//! `exp` is written out, so that every build and vector width gives the same bits and the loop around it vectorises.

use std::fmt::{Debug, Display};
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use crate::POISON;
use crate::cpu::Tile;

/// What kernels need of a number.
pub trait Float:
    bytemuck::Pod
    + Send
    + Sync
    + PartialOrd
    + Debug
    + Default
    + Display
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + 'static
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// Negative infinity.
    const NEG_INFINITY: Self;
    /// Bytes of an element.
    const BYTES: usize = size_of::<Self>();

    /// Rounds a `f64`.
    fn of(value: f64) -> Self;
    /// Widens (or keeps) the value.
    fn f64(self) -> f64;
    /// From a `f32`, exactly.
    fn of_f32(value: f32) -> Self;
    /// Rounds to `f32`.
    fn f32(self) -> f32;
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// The greater one; `other` if `self` is NaN.
    fn greater(self, other: Self) -> Self;
    /// e to the power of `self`; relative error under 2e-7 in `f32`, 0 below about -87.
    fn exp(self) -> Self;
    /// `round_ties_even(self * scale)` for a `scale` that is a power of two, or [`POISON`] when it isn't representable.
    fn fixed(self, scale: Self) -> i64;
    /// A small matrix product (kernels of the CPU device only).
    #[doc(hidden)]
    fn multiply(tile: Tile<'_, Self>);
}

/// Coefficients 1/n! adjusted for the interval ±ln(2)/2 (Cephes, `expf.c`).
const EXP: [f32; 6] = [
    1.987_569_1e-4,
    1.398_199_9e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    5.000_000_3e-1,
];

impl Float for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn of_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f32::mul_add(self, a, b)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn exp(self) -> Self {
        const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, whose bits are then the low bits
        // The order of the comparison keeps NaN.
        let x = if self > 88.376_26 { 88.376_26 } else { self };
        let small = x < -87.336_54;
        let x = if small { -87.336_54 } else { x };
        let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
        let n = shifted - MAGIC;
        let r = n.mul_add(-0.693_359_4, x);
        let r = n.mul_add(2.121_944_4e-4, r);
        let mut p = EXP[0];
        p = p.mul_add(r, EXP[1]);
        p = p.mul_add(r, EXP[2]);
        p = p.mul_add(r, EXP[3]);
        p = p.mul_add(r, EXP[4]);
        p = p.mul_add(r, EXP[5]);
        let y = p.mul_add(r * r, r) + 1.0;
        let exponent = (shifted.to_bits().wrapping_shl(23)).wrapping_add(0x3f80_0000);
        let y = y * f32::from_bits(exponent);
        if small { 0.0 } else { y }
    }
    fn multiply(tile: Tile<'_, Self>) {
        crate::cpu::multiply_f32(tile);
    }
    #[inline(always)]
    fn fixed(self, scale: Self) -> i64 {
        // The product is exact: the scale is a power of two. 2^63 is the first value that doesn't fit.
        let y = (self * scale).round_ties_even();
        if y.abs() < 9_223_372_036_854_775_808.0 {
            y as i64
        } else {
            POISON
        }
    }
}

impl Float for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn of_f32(value: f32) -> Self {
        f64::from(value)
    }
    #[inline(always)]
    fn f32(self) -> f32 {
        self as f32
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f64::mul_add(self, a, b)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn multiply(tile: Tile<'_, Self>) {
        crate::cpu::multiply_f64(tile);
    }
    #[inline(always)]
    fn fixed(self, scale: Self) -> i64 {
        let y = (self * scale).round_ties_even();
        if y.abs() < 9_223_372_036_854_775_808.0 {
            y as i64
        } else {
            POISON
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_reference() {
        let mut worst = 0.0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(Float::exp(x)) - want).abs() / want);
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(Float::exp(0.0f32), 1.0);
        assert_eq!(Float::exp(f32::NEG_INFINITY), 0.0);
        assert!(Float::exp(f32::NAN).is_nan());
        assert!(Float::exp(89.0f32) > 2e38);
    }

    #[test]
    fn fixed_point_rounds_ties_to_even_and_refuses_the_rest() {
        assert_eq!(
            (0.5f32.fixed(1.0), 1.5f32.fixed(1.0), (-2.5f32).fixed(1.0)),
            (0, 2, -2)
        );
        assert_eq!((0.25f64.fixed(2.0), 0.75f64.fixed(2.0)), (0, 2));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 9.3e18, -9.3e18] {
            assert_eq!(bad.fixed(1.0), POISON);
            assert_eq!(f64::from(bad).fixed(1.0), POISON);
        }
        assert_eq!(9.223_371e18f32.fixed(1.0), 9_223_370_937_343_148_032);
    }
}
