//! Causal grouped-query attention, one task per (sequence, key/value head), query tiles of 32 rows against all
//! earlier keys.
//!
//! A task's scratch is a tile of scores (32 x seq_len), the packed head (seq_len x head_dim, several times) and
//! nothing of the size of a whole score matrix. The backward pass computes probabilities anew from the stored
//! logarithms of the row sums (Dao et al. 2022, FlashAttention, algorithm 4).

use super::lanes::{maximum, sum, vectorized};
use super::pool::Pool;
use super::scratch::Scratch;
use super::tile::{HEIGHT, Tile, WIDTH};
use crate::{AttentionShape, Float};

/// Query rows of a tile, a multiple of HEIGHT.
pub const TILE: usize = 32;

/// A buffer whose elements several tasks write, each its own columns.
#[derive(Clone, Copy)]
struct Shared<F>(*mut F, usize);
// SAFETY: tasks write disjoint elements (their own sequence and head).
unsafe impl<F: Send> Send for Shared<F> {}
// SAFETY: as above.
unsafe impl<F: Send> Sync for Shared<F> {}

impl<F: Float> Shared<F> {
    fn of(slice: &mut [F]) -> Self {
        Self(slice.as_mut_ptr(), slice.len())
    }

    /// # Safety
    /// No other task touches these elements.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    unsafe fn row(&self, at: usize, len: usize) -> &mut [F] {
        debug_assert!(at + len <= self.1);
        // SAFETY: inside the slice (asserted, and by the checked shapes), disjoint by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// Sizes, rounded up to whole vectors and tiles.
#[derive(Clone, Copy)]
struct Sizes {
    shape: AttentionShape,
    /// Columns of a packed head.
    dim: usize,
    /// Rows of a packed head, columns of a score tile.
    keys: usize,
}

impl Sizes {
    fn of(shape: AttentionShape) -> Self {
        let dim = shape.head_dim.next_multiple_of(WIDTH);
        Self {
            shape,
            dim,
            keys: shape.seq_len.next_multiple_of(TILE),
        }
    }

    fn tasks(&self) -> usize {
        self.shape.sequences * self.shape.kv_heads
    }

    /// (first row of the sequence, key/value head) of a task.
    fn place(&self, task: usize) -> (usize, usize) {
        (
            task / self.shape.kv_heads * self.shape.seq_len,
            task % self.shape.kv_heads,
        )
    }

    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    fn key_column(&self, kv: usize) -> usize {
        (self.shape.heads + kv) * self.shape.head_dim
    }

    fn value_column(&self, kv: usize) -> usize {
        (self.shape.heads + self.shape.kv_heads + kv) * self.shape.head_dim
    }

    /// Rows of the tile that starts at `from`.
    fn tile(&self, from: usize) -> usize {
        (self.shape.seq_len - from).min(TILE)
    }
}

/// Copies rows `from..from+rows` of a head into `out[padded rows, dim]`, zeroes beyond.
#[inline(always)]
fn pack<F: Float>(src: &[F], stride: usize, head_dim: usize, rows: usize, out: &mut [F], dim: usize) {
    for (i, row) in out.chunks_exact_mut(dim).enumerate() {
        if i < rows {
            row[..head_dim].copy_from_slice(&src[i * stride..][..head_dim]);
            row[head_dim..].fill(F::ZERO);
        } else {
            row.fill(F::ZERO);
        }
    }
}

/// `out[head_dim, keys]` from `packed[keys, dim]`.
#[inline(always)]
fn transpose<F: Float>(packed: &[F], dim: usize, head_dim: usize, out: &mut [F], keys: usize) {
    for block in 0..keys / WIDTH {
        for d in 0..head_dim {
            let row = &mut out[d * keys + block * WIDTH..][..WIDTH];
            for (l, x) in row.iter_mut().enumerate() {
                *x = packed[(block * WIDTH + l) * dim + d];
            }
        }
    }
}

/// Scores of a tile: `out[row, key] = q k`, for the keys each group of rows may see (rounded up to whole vectors).
fn scores<F: Float>(sizes: Sizes, from: usize, q: &[F], transposed: &[F], out: &mut [F]) {
    let (dim, keys) = (sizes.dim, sizes.keys);
    for row in (0..TILE).step_by(HEIGHT) {
        F::multiply(Tile {
            size: (
                HEIGHT,
                (from + row + HEIGHT).next_multiple_of(WIDTH).min(keys),
                sizes.shape.head_dim,
            ),
            a: (&q[row * dim..], dim, 1),
            b: (transposed, keys),
            c: (&mut out[row * keys..], keys),
            accumulate: false,
        });
    }
}

/// `out[row] = weights[row, ..] * values`, each group of rows over the keys it may see.
fn mix<F: Float>(sizes: Sizes, from: usize, weights: &[F], values: &[F], out: &mut [F]) {
    let (dim, keys) = (sizes.dim, sizes.keys);
    for row in (0..TILE).step_by(HEIGHT) {
        F::multiply(Tile {
            size: (HEIGHT, dim, from + row + HEIGHT),
            a: (&weights[row * keys..], keys, 1),
            b: (values, dim),
            c: (&mut out[row * dim..], dim),
            accumulate: false,
        });
    }
}

/// `out[key] += weights[.., key]^T * rows`, for the keys and the queries of a tile.
fn spread<F: Float>(sizes: Sizes, (end, queries): (usize, usize), weights: &[F], rows: &[F], out: &mut [F]) {
    let (dim, keys) = (sizes.dim, sizes.keys);
    F::multiply(Tile {
        size: (end, dim, queries),
        a: (weights, 1, keys),
        b: (rows, dim),
        c: (out, dim),
        accumulate: true,
    });
}

/// The forward pass; see [`crate::Device::attention`].
pub fn forward<F: Float>(
    pool: &Pool,
    scratch: &Scratch<F>,
    shape: AttentionShape,
    qkv: &[F],
    out: &mut [F],
    lse: &mut [F],
) {
    let sizes = Sizes::of(shape);
    let (out, lse) = (Shared::of(out), Shared::of(lse));
    let (head, tile) = (sizes.keys * sizes.dim, TILE * sizes.dim);
    let len = 3 * head + 2 * tile + TILE * sizes.keys;
    pool.each(sizes.tasks(), |task| {
        scratch.with(len, |memory| {
            vectorized(
                #[inline(always)]
                || forward_task(sizes, task, qkv, out, lse, memory),
            );
        });
    });
}

#[inline(always)]
fn forward_task<F: Float>(
    sizes: Sizes,
    task: usize,
    qkv: &[F],
    out: Shared<F>,
    lse: Shared<F>,
    memory: &mut [F],
) {
    let AttentionShape {
        seq_len,
        heads,
        head_dim,
        scale,
        ..
    } = sizes.shape;
    let (stride, width, dim, keys) = (sizes.shape.stride(), sizes.shape.width(), sizes.dim, sizes.keys);
    let (first, kv) = sizes.place(task);
    let (packed_k, memory) = memory.split_at_mut(keys * dim);
    let (packed_v, memory) = memory.split_at_mut(keys * dim);
    let (transposed, memory) = memory.split_at_mut(keys * dim);
    let (q, memory) = memory.split_at_mut(TILE * dim);
    let (o, tile) = memory.split_at_mut(TILE * dim);
    pack(
        &qkv[first * stride + sizes.key_column(kv)..],
        stride,
        head_dim,
        seq_len,
        packed_k,
        dim,
    );
    pack(
        &qkv[first * stride + sizes.value_column(kv)..],
        stride,
        head_dim,
        seq_len,
        packed_v,
        dim,
    );
    transpose(packed_k, dim, head_dim, transposed, keys);
    for head in kv * sizes.group()..(kv + 1) * sizes.group() {
        for from in (0..seq_len).step_by(TILE) {
            let rows = sizes.tile(from);
            pack(
                &qkv[(first + from) * stride + head * head_dim..],
                stride,
                head_dim,
                rows,
                q,
                dim,
            );
            scores(sizes, from, q, transposed, tile);
            let mut inverse = [F::ZERO; TILE];
            for row in 0..rows {
                let seen = from + row + 1;
                let line = &mut tile[row * keys..][..keys];
                let (total, top) = softmax_row(line, seen, F::of(scale));
                inverse[row] = F::ONE / total;
                let at = (first / seq_len * heads + head) * seq_len + from + row;
                // SAFETY: this sequence and head belong to this task.
                unsafe { lse.row(at, 1)[0] = top + F::of(total.f64().ln()) };
            }
            // Padding rows scored 0 against every key; what they mix is never read.
            mix(sizes, from, tile, packed_v, o);
            for row in 0..rows {
                // SAFETY: as above.
                let target = unsafe { out.row((first + from + row) * width + head * head_dim, head_dim) };
                for (t, &x) in target.iter_mut().zip(&o[row * dim..]) {
                    *t = x * inverse[row];
                }
            }
        }
    }
}

/// Exponentials of the `seen` scaled scores against their greatest, zero for those that a neighbouring row may see.
/// Returns (sum, greatest).
#[inline(always)]
fn softmax_row<F: Float>(line: &mut [F], seen: usize, scale: F) -> (F, F) {
    let top = maximum(&line[..seen]) * scale;
    for x in &mut line[..seen] {
        *x = x.mul_add(scale, -top).exp();
    }
    let end = (seen + HEIGHT).min(line.len());
    line[seen..end].fill(F::ZERO);
    let line: &[F] = line;
    (
        sum(
            seen,
            #[inline(always)]
            |i| line[i],
        ),
        top,
    )
}

/// Operands of the backward pass; see [`crate::Device::attention_backward`].
#[derive(Clone, Copy)]
pub struct Backward<'a, F> {
    pub qkv: &'a [F],
    pub out: &'a [F],
    pub lse: &'a [F],
    pub dout: &'a [F],
}

/// The backward pass.
pub fn backward<F: Float>(
    pool: &Pool,
    scratch: &Scratch<F>,
    shape: AttentionShape,
    io: Backward<'_, F>,
    dqkv: &mut [F],
) {
    let sizes = Sizes::of(shape);
    let dqkv = Shared::of(dqkv);
    let (head, tile) = (sizes.keys * sizes.dim, TILE * sizes.dim);
    let len = 6 * head + 4 * tile + 2 * TILE * sizes.keys;
    pool.each(sizes.tasks(), |task| {
        scratch.with(len, |memory| {
            vectorized(
                #[inline(always)]
                || backward_task(sizes, task, io, dqkv, memory),
            );
        });
    });
}

#[inline(always)]
fn backward_task<F: Float>(
    sizes: Sizes,
    task: usize,
    io: Backward<'_, F>,
    dqkv: Shared<F>,
    memory: &mut [F],
) {
    let AttentionShape {
        seq_len,
        heads,
        head_dim,
        scale,
        ..
    } = sizes.shape;
    let (stride, width, dim, keys) = (sizes.shape.stride(), sizes.shape.width(), sizes.dim, sizes.keys);
    let (first, kv) = sizes.place(task);
    let (packed_k, memory) = memory.split_at_mut(keys * dim);
    let (packed_v, memory) = memory.split_at_mut(keys * dim);
    let (transposed_k, memory) = memory.split_at_mut(keys * dim);
    let (transposed_v, memory) = memory.split_at_mut(keys * dim);
    let (dk, memory) = memory.split_at_mut(keys * dim);
    let (dv, memory) = memory.split_at_mut(keys * dim);
    let (q, memory) = memory.split_at_mut(TILE * dim);
    let (dout, memory) = memory.split_at_mut(TILE * dim);
    let (dq, memory) = memory.split_at_mut(TILE * dim);
    let (_, memory) = memory.split_at_mut(TILE * dim);
    let (p, ds) = memory.split_at_mut(TILE * keys);
    pack(
        &io.qkv[first * stride + sizes.key_column(kv)..],
        stride,
        head_dim,
        seq_len,
        packed_k,
        dim,
    );
    pack(
        &io.qkv[first * stride + sizes.value_column(kv)..],
        stride,
        head_dim,
        seq_len,
        packed_v,
        dim,
    );
    transpose(packed_k, dim, head_dim, transposed_k, keys);
    transpose(packed_v, dim, head_dim, transposed_v, keys);
    dk.fill(F::ZERO);
    dv.fill(F::ZERO);
    for head in kv * sizes.group()..(kv + 1) * sizes.group() {
        for from in (0..seq_len).step_by(TILE) {
            let rows = sizes.tile(from);
            let column = head * head_dim;
            pack(
                &io.qkv[(first + from) * stride + column..],
                stride,
                head_dim,
                rows,
                q,
                dim,
            );
            pack(
                &io.dout[(first + from) * width + column..],
                width,
                head_dim,
                rows,
                dout,
                dim,
            );
            scores(sizes, from, q, transposed_k, p);
            scores(sizes, from, dout, transposed_v, ds);
            let end = (from + TILE).min(keys);
            for row in 0..TILE {
                let (p, ds) = (&mut p[row * keys..][..end], &mut ds[row * keys..][..end]);
                if row >= rows {
                    p.fill(F::ZERO);
                    ds.fill(F::ZERO);
                    continue;
                }
                let seen = from + row + 1;
                let at = (first / seq_len * heads + head) * seq_len + from + row;
                let o = &io.out[(first + from + row) * width + column..][..head_dim];
                let d = &dout[row * dim..][..head_dim];
                let delta = sum(
                    head_dim,
                    #[inline(always)]
                    |i| o[i] * d[i],
                );
                gradient_row(&mut p[..], &mut ds[..], seen, (io.lse[at], delta, F::of(scale)));
            }
            mix(sizes, from, ds, packed_k, dq);
            for row in 0..rows {
                // SAFETY: this sequence and head belong to this task.
                let target = unsafe { dqkv.row((first + from + row) * stride + column, head_dim) };
                target.copy_from_slice(&dq[row * dim..][..head_dim]);
            }
            spread(sizes, (end, rows), ds, q, dk);
            spread(sizes, (end, rows), p, dout, dv);
        }
    }
    for row in 0..seq_len {
        let line = (first + row) * stride;
        // SAFETY: this sequence and key/value head belong to this task.
        let (k, v) = unsafe {
            (
                dqkv.row(line + sizes.key_column(kv), head_dim),
                dqkv.row(line + sizes.value_column(kv), head_dim),
            )
        };
        k.copy_from_slice(&dk[row * dim..][..head_dim]);
        v.copy_from_slice(&dv[row * dim..][..head_dim]);
    }
}

/// From scores and dP to probabilities and dS, in place; zero beyond `seen`.
#[inline(always)]
fn gradient_row<F: Float>(p: &mut [F], ds: &mut [F], seen: usize, (lse, delta, scale): (F, F, F)) {
    for (p, ds) in p[..seen].iter_mut().zip(&mut ds[..seen]) {
        *p = p.mul_add(scale, -lse).exp();
        *ds = *p * (*ds - delta) * scale;
    }
    p[seen..].fill(F::ZERO);
    ds[seen..].fill(F::ZERO);
}
