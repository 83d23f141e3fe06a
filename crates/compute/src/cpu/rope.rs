//! Rotary embedding of queries and keys inside the fused buffer.

use super::lanes::vectorized;
use super::pool::{Chunks, Pool};
use crate::{AttentionShape, Float};

const ROWS: usize = 64;

pub fn turn<F: Float>(
    pool: &Pool,
    shape: AttentionShape,
    qkv: &mut [F],
    cos: &[F],
    sin: &[F],
    inverse: bool,
) {
    let (stride, half) = (shape.stride(), shape.head_dim / 2);
    let turned = (shape.heads + shape.kv_heads) * shape.head_dim;
    let parts = Chunks::of(qkv, ROWS * stride);
    let sign = if inverse { -F::ONE } else { F::ONE };
    pool.each(parts.count(), |task| {
        // SAFETY: each task takes the chunk of its own number.
        let rows = unsafe { parts.take(task) };
        vectorized(
            #[inline(always)]
            || {
                for (i, row) in rows.chunks_exact_mut(stride).enumerate() {
                    let position = (task * ROWS + i) % shape.seq_len;
                    let (cos, sin) = (&cos[position * half..][..half], &sin[position * half..][..half]);
                    for head in row[..turned].chunks_exact_mut(2 * half) {
                        let (low, high) = head.split_at_mut(half);
                        for (((a, b), &c), &s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                            let s = s * sign;
                            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                        }
                    }
                }
            },
        );
    });
}
