//! RMSNorm, with the residual addition in front of it in the same pass.

use super::lanes::{sum, vectorized};
use super::pool::{Chunks, Pool, chunk};
use crate::Float;

/// Rows of a task. The gradient of the weight is summed over such blocks and the blocks are combined in order.
pub const ROWS: usize = 64;

pub struct Forward<'a, F> {
    pub x: &'a [F],
    /// What is added to `x` first, and where the sum goes.
    pub delta: Option<(&'a [F], &'a mut [F])>,
    pub weight: &'a [F],
    pub eps: f64,
    pub y: &'a mut [F],
    pub rstd: &'a mut [F],
}

pub fn forward<F: Float>(pool: &Pool, io: Forward<'_, F>) {
    let width = io.weight.len();
    let (delta, sums) = match io.delta {
        Some((delta, sums)) => (Some(delta), Some(Chunks::of(sums, ROWS * width))),
        None => (None, None),
    };
    let (ys, rstds) = (Chunks::of(io.y, ROWS * width), Chunks::of(io.rstd, ROWS));
    let (x, weight, eps) = (io.x, io.weight, F::of(io.eps));
    pool.each(rstds.count(), |task| {
        // SAFETY: each task takes the chunks of its own number.
        let (y, rstd) = unsafe { (ys.take(task), rstds.take(task)) };
        let x = chunk(x, ROWS * width, task);
        match (delta, &sums) {
            (Some(delta), Some(sums)) => {
                // SAFETY: as above.
                let total = unsafe { sums.take(task) };
                let delta = chunk(delta, ROWS * width, task);
                vectorized(
                    #[inline(always)]
                    || {
                        for ((t, &a), &b) in total.iter_mut().zip(x).zip(delta) {
                            *t = a + b;
                        }
                        rows(total, weight, eps, y, rstd);
                    },
                );
            }
            _ => vectorized(
                #[inline(always)]
                || rows(x, weight, eps, y, rstd),
            ),
        }
    });
}

#[inline(always)]
fn rows<F: Float>(x: &[F], weight: &[F], eps: F, y: &mut [F], rstd: &mut [F]) {
    let width = weight.len();
    let inverse = F::ONE / F::of(width as f64);
    for ((x, y), r) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(rstd) {
        let square = sum(
            width,
            #[inline(always)]
            |i| x[i] * x[i],
        );
        *r = F::ONE / (square * inverse + eps).sqrt();
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * *r * w;
        }
    }
}

pub struct Backward<'a, F> {
    pub x: &'a [F],
    pub weight: &'a [F],
    pub rstd: &'a [F],
    pub dy_then_y: &'a mut [F],
    pub dx: &'a mut [F],
    pub dweight: &'a mut [F],
    /// One row of `weight`'s width per block.
    pub partial: &'a mut [F],
}

/// Elements of `partial` that [`backward`] needs.
pub fn partial_len(rows: usize, width: usize) -> usize {
    rows.div_ceil(ROWS) * width
}

pub fn backward<F: Float>(pool: &Pool, io: Backward<'_, F>) {
    let width = io.weight.len();
    let (weight, x, rstd) = (io.weight, io.x, io.rstd);
    let partials = Chunks::of(io.partial, width);
    let (dys, dxs) = (
        Chunks::of(io.dy_then_y, ROWS * width),
        Chunks::of(io.dx, ROWS * width),
    );
    pool.each(dys.count(), |task| {
        // SAFETY: each task takes the chunks of its own number.
        let (dy, dx, partial) = unsafe { (dys.take(task), dxs.take(task), partials.take(task)) };
        let (x, rstd) = (chunk(x, ROWS * width, task), chunk(rstd, ROWS, task));
        vectorized(
            #[inline(always)]
            || backward_rows(x, weight, rstd, dy, dx, partial),
        );
    });
    let blocks = dys.count();
    // SAFETY: all tasks are over; nobody else holds a chunk.
    let parts: Vec<&mut [F]> = (0..blocks).map(|b| unsafe { partials.take(b) }).collect();
    io.dweight.fill(F::ZERO);
    for part in parts {
        for (sum, &p) in io.dweight.iter_mut().zip(part.iter()) {
            *sum += p;
        }
    }
}

#[inline(always)]
fn backward_rows<F: Float>(x: &[F], weight: &[F], rstd: &[F], dy: &mut [F], dx: &mut [F], partial: &mut [F]) {
    let width = weight.len();
    let inverse = F::ONE / F::of(width as f64);
    partial.fill(F::ZERO);
    let rows = x
        .chunks_exact(width)
        .zip(dy.chunks_exact_mut(width))
        .zip(dx.chunks_exact_mut(width))
        .zip(rstd);
    for (((x, dy), dx), &r) in rows {
        let dot = {
            let dy: &[F] = dy;
            sum(
                width,
                #[inline(always)]
                |i| dy[i] * weight[i] * x[i],
            )
        };
        // d/dx of x * r: r * (g - x * r² * mean(g x)), g = dy * weight
        let pull = dot * inverse * r * r;
        let out = dy.iter_mut().zip(dx).zip(x).zip(weight).zip(partial.iter_mut());
        for ((((dy, dx), &x), &w), part) in out {
            let unit = x * r;
            *part += *dy * unit;
            *dx += (*dy * w - x * pull) * r;
            *dy = unit * w;
        }
    }
}
