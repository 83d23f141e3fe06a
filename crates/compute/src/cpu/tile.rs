//! Small matrix products for attention: `C[m,n] = scale * A B (+ C)` on scratch that is padded to whole vectors.
//!
//! CO-4 Every element of C is one chain of fused multiply-adds over k in ascending order, so tile sizes don't show.

use crate::Float;

/// Columns come in multiples of this.
pub const WIDTH: usize = 16;
/// Rows come in multiples of this.
pub const HEIGHT: usize = 4;

/// A, read as `a[i * row + k * column]`.
#[derive(Clone, Copy)]
pub struct Left<'a, F> {
    pub values: &'a [F],
    pub row: usize,
    pub column: usize,
}

/// `c[i*ldc + j] (+)= sum over k of a(i,k) * b[k*ldb + j]`, for i in 0..m (multiple of HEIGHT), j in 0..n (multiple of WIDTH).
#[inline(always)]
pub fn multiply<F: Float>(
    (m, n, k): (usize, usize, usize),
    a: Left<'_, F>,
    (b, ldb): (&[F], usize),
    (c, ldc): (&mut [F], usize),
    accumulate: bool,
) {
    let mut j = 0;
    while j < n {
        let vectors = if n - j >= 4 * WIDTH {
            4
        } else if n - j >= 2 * WIDTH {
            2
        } else {
            1
        };
        let mut i = 0;
        while i < m {
            match vectors {
                4 => block::<F, 4>((i, j, k), a, (b, ldb), (c, ldc), accumulate),
                2 => block::<F, 2>((i, j, k), a, (b, ldb), (c, ldc), accumulate),
                _ => block::<F, 1>((i, j, k), a, (b, ldb), (c, ldc), accumulate),
            }
            i += HEIGHT;
        }
        j += vectors * WIDTH;
    }
}

#[inline(always)]
fn block<F: Float, const V: usize>(
    (i, j, k): (usize, usize, usize),
    a: Left<'_, F>,
    (b, ldb): (&[F], usize),
    (c, ldc): (&mut [F], usize),
    accumulate: bool,
) {
    let mut sums = [[[F::ZERO; WIDTH]; V]; HEIGHT];
    if accumulate {
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                sum.copy_from_slice(&c[(i + r) * ldc + j + v * WIDTH..][..WIDTH]);
            }
        }
    }
    for depth in 0..k {
        let row = &b[depth * ldb + j..][..V * WIDTH];
        for (r, sums) in sums.iter_mut().enumerate() {
            let x = a.values[(i + r) * a.row + depth * a.column];
            for (v, sum) in sums.iter_mut().enumerate() {
                for l in 0..WIDTH {
                    sum[l] = x.mul_add(row[v * WIDTH + l], sum[l]);
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            c[(i + r) * ldc + j + v * WIDTH..][..WIDTH].copy_from_slice(sum);
        }
    }
}
