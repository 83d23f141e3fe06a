//! Cross entropy over logits, its gradient in place.

use super::lanes::{maximum, sum, vectorized};
use super::pool::{Chunks, Pool, chunk};
use crate::Float;

const ROWS: usize = 16;

/// The summed loss; see [`crate::Device::cross_entropy`]. Targets are below `width`.
pub fn cross_entropy<F: Float>(
    pool: &Pool,
    width: usize,
    logits: &mut [F],
    targets: &[u32],
    gradient: bool,
) -> f64 {
    let mut losses = vec![0.0f64; targets.len()];
    {
        let parts = Chunks::of(logits, ROWS * width);
        let losses = Chunks::of(&mut losses, ROWS);
        pool.each(parts.count(), |task| {
            // SAFETY: each task takes the chunks of its own number.
            let (rows, losses) = unsafe { (parts.take(task), losses.take(task)) };
            let targets = chunk(targets, ROWS, task);
            for ((row, &target), loss) in rows.chunks_exact_mut(width).zip(targets).zip(losses) {
                *loss = vectorized(
                    #[inline(always)]
                    || one_row(row, target as usize, gradient),
                );
            }
        });
    }
    // Row order, whatever the threads were.
    losses.iter().sum()
}

#[inline(always)]
fn one_row<F: Float>(row: &mut [F], target: usize, gradient: bool) -> f64 {
    let top = maximum(row);
    let at = row[target].f64();
    let total = if gradient {
        for x in row.iter_mut() {
            *x = (*x - top).exp();
        }
        let row: &[F] = row;
        sum(
            row.len(),
            #[inline(always)]
            |i| row[i],
        )
    } else {
        let row: &[F] = row;
        sum(
            row.len(),
            #[inline(always)]
            |i| (row[i] - top).exp(),
        )
    };
    if gradient {
        let inverse = F::ONE / total;
        for x in row.iter_mut() {
            *x = *x * inverse;
        }
        row[target] = row[target] - F::ONE;
    }
    top.f64() + total.f64().ln() - at
}
