//! SwiGLU over a fused `gate ++ up` buffer.

use super::lanes::vectorized;
use super::pool::{Chunks, Pool, chunk};
use crate::Float;

const ROWS: usize = 16;

pub fn forward<F: Float>(pool: &Pool, width: usize, gate_up: &[F], y: &mut [F]) {
    let ys = Chunks::of(y, ROWS * width);
    pool.each(ys.count(), |task| {
        // SAFETY: each task takes the chunk of its own number.
        let y = unsafe { ys.take(task) };
        let gate_up = chunk(gate_up, ROWS * 2 * width, task);
        vectorized(
            #[inline(always)]
            || {
                for (row, y) in gate_up.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
                    let (gate, up) = row.split_at(width);
                    for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
                        *y = g / (F::ONE + (-g).exp()) * u;
                    }
                }
            },
        );
    });
}

pub fn backward<F: Float>(pool: &Pool, width: usize, gate_up: &[F], dy_then_y: &mut [F], dgate_up: &mut [F]) {
    let dys = Chunks::of(dy_then_y, ROWS * width);
    let outs = Chunks::of(dgate_up, ROWS * 2 * width);
    pool.each(dys.count(), |task| {
        // SAFETY: each task takes the chunks of its own number.
        let (dy, out) = unsafe { (dys.take(task), outs.take(task)) };
        let gate_up = chunk(gate_up, ROWS * 2 * width, task);
        vectorized(
            #[inline(always)]
            || {
                let rows = gate_up
                    .chunks_exact(2 * width)
                    .zip(out.chunks_exact_mut(2 * width));
                for ((row, out), dy) in rows.zip(dy.chunks_exact_mut(width)) {
                    let (gate, up) = row.split_at(width);
                    let (dgate, dup) = out.split_at_mut(width);
                    let all = gate.iter().zip(up).zip(dgate).zip(dup).zip(dy);
                    for ((((&g, &u), dg), du), dy) in all {
                        let sigmoid = F::ONE / (F::ONE + (-g).exp());
                        let silu = g * sigmoid;
                        *du = *dy * silu;
                        *dg = *dy * u * (sigmoid + silu * (F::ONE - sigmoid));
                        *dy = silu * u;
                    }
                }
            },
        );
    });
}
