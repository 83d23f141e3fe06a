//! Gradient accumulators: 64-bit fixed point, or floats.

use std::sync::Arc;

use super::buffer::Aligned;
use super::fixed;
use super::lanes::vectorized;
use super::pool::{Chunks, Pool, chunk};
use crate::tally::Tally;
use crate::{Float, POISON, Result, SumKind};

/// Elements of a task: a multiple of any block.
pub const TASK: usize = 16 * 1024;
/// Blocks of a task that sums squares.
const BLOCKS: usize = 16;

/// Accumulators of the CPU device.
#[derive(Debug)]
pub enum CpuSums<F> {
    /// Units of 2^-shift.
    Fixed {
        /// The sums.
        values: Aligned<i64>,
        /// Fractional bits.
        shift: u32,
    },
    /// Floats.
    Float(Aligned<F>),
}

impl<F: Float> CpuSums<F> {
    /// Zeroes.
    ///
    /// # Errors
    /// When the size is beyond the address space.
    pub(super) fn new(kind: SumKind, len: usize, tally: &Arc<Tally>) -> Result<Self> {
        Ok(match kind {
            SumKind::Fixed { shift } => Self::Fixed {
                values: Aligned::zeroed(len)?.counted(tally),
                shift: shift.min(60),
            },
            SumKind::Float => Self::Float(Aligned::zeroed(len)?.counted(tally)),
        })
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Fixed { values, .. } => values.len(),
            Self::Float(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of an element.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Fixed { .. } => size_of::<i64>(),
            Self::Float(_) => F::BYTES,
        }
    }
}

fn unit<F: Float>(shift: u32) -> F {
    F::of((1u64 << shift) as f64)
}

/// `values[at..] += gradient`.
pub fn accumulate<F: Float>(pool: &Pool, sums: &mut CpuSums<F>, at: usize, gradient: &[F]) {
    match sums {
        CpuSums::Fixed { values, shift } => {
            let scale = unit(*shift);
            let parts = Chunks::of(&mut values[at..at + gradient.len()], TASK);
            pool.each(parts.count(), |task| {
                // SAFETY: each task takes the chunk of its own number.
                fixed::add_floats(unsafe { parts.take(task) }, chunk(gradient, TASK, task), scale);
            });
        }
        CpuSums::Float(values) => {
            let parts = Chunks::of(&mut values[at..at + gradient.len()], TASK);
            pool.each(parts.count(), |task| {
                // SAFETY: as above.
                add_plain(unsafe { parts.take(task) }, chunk(gradient, TASK, task));
            });
        }
    }
}

/// `dst += src` in floats.
pub fn add_plain<F: Float>(dst: &mut [F], src: &[F]) {
    vectorized(
        #[inline(always)]
        || {
            for (d, &s) in dst.iter_mut().zip(src) {
                *d += s;
            }
        },
    );
}

/// Adds the sums of another rank; `bytes` has the right length.
pub fn add_bytes<F: Float>(pool: &Pool, sums: &mut CpuSums<F>, at: usize, bytes: &[u8]) {
    let width = sums.width();
    let count = bytes.len() / width;
    match sums {
        CpuSums::Fixed { values, .. } => {
            let parts = Chunks::of(&mut values[at..at + count], TASK);
            pool.each(parts.count(), |task| {
                // SAFETY: each task takes the chunk of its own number.
                let part = unsafe { parts.take(task) };
                let (items, _) = chunk(bytes, TASK * width, task).as_chunks::<8>();
                vectorized(
                    #[inline(always)]
                    || {
                        for (value, item) in part.iter_mut().zip(items) {
                            *value = fixed::add(*value, i64::from_ne_bytes(*item));
                        }
                    },
                );
            });
        }
        CpuSums::Float(values) => {
            let parts = Chunks::of(&mut values[at..at + count], TASK);
            pool.each(parts.count(), |task| {
                // SAFETY: as above.
                let part = unsafe { parts.take(task) };
                for (value, item) in part
                    .iter_mut()
                    .zip(chunk(bytes, TASK * width, task).chunks_exact(width))
                {
                    *value += bytemuck::pod_read_unaligned::<F>(item);
                }
            });
        }
    }
}

/// Turns accumulators into mean gradients.
#[derive(Clone, Copy)]
pub struct Mean {
    unit: f64,
    tokens: f64,
}

impl Mean {
    #[inline(always)]
    pub fn of_fixed<F: Float>(self, value: i64) -> F {
        if value == POISON {
            F::of(f64::NAN)
        } else {
            F::of(value as f64 * self.unit / self.tokens)
        }
    }

    #[inline(always)]
    pub fn of_float<F: Float>(self, value: F) -> F {
        F::of(value.f64() / self.tokens)
    }
}

/// The factors of a step's mean.
pub fn mean_of<F>(sums: &CpuSums<F>, tokens: u64) -> Mean {
    let unit = match sums {
        CpuSums::Fixed { shift, .. } => 1.0 / (1u64 << shift) as f64,
        CpuSums::Float(_) => 1.0,
    };
    Mean {
        unit,
        tokens: tokens.max(1) as f64,
    }
}

/// Mean gradients of a range.
pub fn mean<F: Float>(sums: &CpuSums<F>, range: std::ops::Range<usize>, tokens: u64) -> Vec<F> {
    let mean = mean_of(sums, tokens);
    match sums {
        CpuSums::Fixed { values, .. } => values[range].iter().map(|&v| mean.of_fixed(v)).collect(),
        CpuSums::Float(values) => values[range].iter().map(|&v| mean.of_float(v)).collect(),
    }
}

/// Sums of squares of the mean gradient, block by block.
pub fn block_squares<F: Float>(
    pool: &Pool,
    sums: &CpuSums<F>,
    range: std::ops::Range<usize>,
    block: usize,
    tokens: u64,
) -> Vec<f64> {
    let mean = mean_of(sums, tokens);
    let mut squares = vec![0.0; range.len().div_ceil(block)];
    {
        let parts = Chunks::of(&mut squares, BLOCKS);
        pool.each(parts.count(), |task| {
            // SAFETY: each task takes the chunk of its own number.
            let part = unsafe { parts.take(task) };
            for (i, square) in part.iter_mut().enumerate() {
                let from = range.start + (task * BLOCKS + i) * block;
                let to = (from + block).min(range.end);
                *square = match sums {
                    CpuSums::Fixed { values, .. } => block_square(
                        &values[from..to],
                        #[inline(always)]
                        |v| mean.of_fixed::<F>(v),
                    ),
                    CpuSums::Float(values) => block_square(
                        &values[from..to],
                        #[inline(always)]
                        |v| mean.of_float::<F>(v),
                    ),
                };
            }
        });
    }
    squares
}

/// Mean gradients of the elements from `start` on, as many as `out` has, and [`block_squares`] of the same.
pub fn mean_and_squares<F: Float>(
    pool: &Pool,
    sums: &CpuSums<F>,
    start: usize,
    block: usize,
    tokens: u64,
    out: &mut [F],
) -> Vec<f64> {
    let mean = mean_of(sums, tokens);
    let mut squares = vec![0.0; out.len().div_ceil(block)];
    {
        let (parts, out) = (Chunks::of(&mut squares, BLOCKS), Chunks::of(out, BLOCKS * block));
        pool.each(parts.count(), |task| {
            // SAFETY: each task takes the chunks of its own number.
            let (squares, out) = unsafe { (parts.take(task), out.take(task)) };
            for (i, (square, out)) in squares.iter_mut().zip(out.chunks_mut(block)).enumerate() {
                let from = start + (task * BLOCKS + i) * block;
                match sums {
                    CpuSums::Fixed { values, .. } => fill(
                        out,
                        &values[from..],
                        #[inline(always)]
                        |v| mean.of_fixed(v),
                    ),
                    CpuSums::Float(values) => fill(
                        out,
                        &values[from..],
                        #[inline(always)]
                        |v| mean.of_float(v),
                    ),
                }
                *square = block_square(
                    out,
                    #[inline(always)]
                    |v| v,
                );
            }
        });
    }
    squares
}

fn fill<T: Copy, F: Float>(out: &mut [F], values: &[T], mean: impl Fn(T) -> F) {
    vectorized(
        #[inline(always)]
        || {
            for (out, &value) in out.iter_mut().zip(values) {
                *out = mean(value);
            }
        },
    );
}

fn block_square<T: Copy, F: Float>(values: &[T], mean: impl Fn(T) -> F) -> f64 {
    vectorized(
        #[inline(always)]
        || {
            super::lanes::sum(
                values.len(),
                #[inline(always)]
                |i| {
                    let g = mean(values[i]).f64();
                    g * g
                },
            )
        },
    )
}
