//! Matrix products through the `gemm` crate, cut over the threads into independent products of columns (or rows) of
//! the result.
//!
//! An element of the result is summed over k in the same order whatever piece it is computed in (held by
//! `conformance`), so the cut doesn't show: the crate sums in another order only for vectors and for results of at
//! most 64 x 64, which are never cut and which no piece is. Pieces that share nothing but their inputs measured 3 to
//! 10 % faster than the crate's own division of one product, whose threads wait for each other.

use std::any::TypeId;
use std::ops::Range;

use gemm::Parallelism;

use super::pool::Pool;
use crate::{Float, Product};

/// Cuts are at multiples of this: whole vectors, whole register tiles.
const GRAIN: usize = 32;
/// Columns or rows that make another piece worth its start; less `GRAIN`, still more than 64.
const PIECE: usize = 128;

/// `c` has `m*n`, `a` `m*k` and `b` `k*n` elements (checked by the caller).
pub fn product<F: Float>(pool: &Pool, shape: Product, c: &mut [F], a: &[F], b: &[F]) {
    debug_assert!(TypeId::of::<F>() == TypeId::of::<f32>() || TypeId::of::<F>() == TypeId::of::<f64>());
    let Product { m, n, .. } = shape;
    let by_columns = shape.transpose_a && n >= PIECE * pool.threads() || m < PIECE * pool.threads();
    let long = if by_columns { n } else { m };
    let pieces = (long / PIECE).clamp(1, pool.threads());
    let cut = |piece| {
        if piece == pieces {
            long
        } else {
            long * piece / pieces / GRAIN * GRAIN
        }
    };
    let target = Target(c.as_mut_ptr());
    pool.each(pieces, |piece| {
        let part = cut(piece)..cut(piece + 1);
        let (rows, columns) = if by_columns { (0..m, part) } else { (part, 0..n) };
        piece_of(shape, target, a, b, rows, columns);
    });
}

/// The result, of which every task writes its own rows and columns.
#[derive(Clone, Copy)]
struct Target<F>(*mut F);
// SAFETY: tasks write disjoint elements of a slice that is borrowed mutably while they run.
unsafe impl<F: Send> Send for Target<F> {}
// SAFETY: as above.
unsafe impl<F: Send> Sync for Target<F> {}

/// Computes `c[rows, columns]` on this thread.
fn piece_of<F: Float>(
    shape: Product,
    c: Target<F>,
    a: &[F],
    b: &[F],
    rows: Range<usize>,
    columns: Range<usize>,
) {
    let Product { m, n, k, .. } = shape;
    let (a_cs, a_rs) = if shape.transpose_a { (m, 1) } else { (1, k) };
    let (b_cs, b_rs) = if shape.transpose_b { (k, 1) } else { (1, n) };
    // SAFETY: rows are within m and columns within n, so that offsets and strides stay inside slices of the checked
    // lengths; `F` is f32 or f64, which gemm supports; C doesn't overlap A or B as it is borrowed mutably, and no
    // other task has this part of it.
    unsafe {
        gemm::gemm(
            rows.len(),
            columns.len(),
            k,
            c.0.add(rows.start * n + columns.start),
            1,
            n as isize,
            shape.accumulate,
            a.as_ptr().add(rows.start * a_rs),
            a_cs as isize,
            a_rs as isize,
            b.as_ptr().add(columns.start * b_cs),
            b_cs as isize,
            b_rs as isize,
            F::ONE,
            F::ONE,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
