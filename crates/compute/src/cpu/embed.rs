//! Embedding rows: gathered, and their gradients added to the accumulators.

use super::lanes::vectorized;
use super::pool::{Chunks, Pool, chunk};
use crate::Float;

const ROWS: usize = 64;

/// Tokens are rows of `table`.
pub fn gather<F: Float>(pool: &Pool, width: usize, table: &[F], tokens: &[u32], out: &mut [F]) {
    let outs = Chunks::of(out, ROWS * width);
    pool.each(outs.count(), |task| {
        // SAFETY: each task takes the chunk of its own number.
        let out = unsafe { outs.take(task) };
        for (row, &token) in out.chunks_exact_mut(width).zip(chunk(tokens, ROWS, task)) {
            row.copy_from_slice(&table[token as usize * width..][..width]);
        }
    });
}

/// Row numbers sorted by token, rows of a token in order: `(token, first, count)` into the list of rows.
pub fn groups(tokens: &[u32]) -> (Vec<u32>, Vec<(u32, usize, usize)>) {
    let mut rows: Vec<u32> = (0..tokens.len() as u32).collect();
    rows.sort_by_key(|&row| tokens[row as usize]);
    let mut groups: Vec<(u32, usize, usize)> = Vec::new();
    for (at, &row) in rows.iter().enumerate() {
        let token = tokens[row as usize];
        match groups.last_mut() {
            Some((last, _, count)) if *last == token => *count += 1,
            _ => groups.push((token, at, 1)),
        }
    }
    (rows, groups)
}

/// The sum of the listed rows of `gradient`, in order.
pub fn sum_rows<F: Float>(width: usize, rows: &[u32], gradient: &[F], out: &mut [F]) {
    out.fill(F::ZERO);
    vectorized(
        #[inline(always)]
        || {
            for &row in rows {
                for (sum, &g) in out.iter_mut().zip(&gradient[row as usize * width..][..width]) {
                    *sum += g;
                }
            }
        },
    );
}
