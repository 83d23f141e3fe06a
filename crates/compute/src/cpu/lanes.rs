//! Vector code without a vector width: plain loops over 16 fixed lanes, compiled for each instruction set and chosen
//! at run time.

use std::sync::OnceLock;

use crate::Float;

/// Number of independent partial sums in a reduction (CP-1).
pub const LANES: usize = 16;

/// Compiles the closure for the best instruction set there is and runs it.
#[inline(always)]
pub fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    arch().dispatch(work)
}

/// The best instruction set there is.
#[inline(always)]
pub fn arch() -> pulp::Arch {
    static ARCH: OnceLock<pulp::Arch> = OnceLock::new();
    *ARCH.get_or_init(pulp::Arch::new)
}

/// Adds up the lanes in a fixed tree.
#[inline(always)]
pub fn fold<F: Float>(lanes: [F; LANES]) -> F {
    let mut sums = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            let other = sums[i + half];
            sums[i] += other;
        }
        half /= 2;
    }
    sums[0]
}

/// Sum of `term(i)` over `0..len`, in 16 lanes.
#[inline(always)]
pub fn sum<F: Float>(len: usize, term: impl Fn(usize) -> F) -> F {
    let mut lanes = [F::ZERO; LANES];
    let full = len - len % LANES;
    let mut i = 0;
    while i < full {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += term(i + l);
        }
        i += LANES;
    }
    for (l, lane) in lanes.iter_mut().enumerate().take(len - full) {
        *lane += term(full + l);
    }
    fold(lanes)
}

/// Greatest value, negative infinity if empty.
#[inline(always)]
pub fn maximum<F: Float>(values: &[F]) -> F {
    let mut lanes = [F::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = chunk[l].greater(lanes[l]);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = value.greater(*lane);
    }
    lanes.into_iter().fold(F::NEG_INFINITY, |a, b| b.greater(a))
}
