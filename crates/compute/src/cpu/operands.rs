//! Checks of operands: every range, length and index is looked at before a kernel runs.

use std::ops::Range;

use super::CpuSums;
use super::adamw::Operand;
use super::held::CpuBuffer;
use super::sums::TASK;
use crate::{AdamPart, AttentionShape, ComputeError, Float, Hashing, Product, Result, View, ViewMut};

fn inside(op: &'static str, range: &Range<usize>, len: usize) -> Result<()> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    Err(ComputeError::Range {
        op,
        start: range.start,
        end: range.end,
        len,
    })
}

/// The slice of a view, checked.
pub fn read<'a, T: Float>(op: &'static str, view: View<'a, CpuBuffer<T>>) -> Result<&'a [T]> {
    inside(op, &view.range, view.buffer.values().len())?;
    Ok(&view.buffer.values()[view.range])
}

/// The slice of a view to write, checked; refused while the buffer is frozen.
pub fn write<'a, T: Float>(op: &'static str, view: ViewMut<'a, CpuBuffer<T>>) -> Result<&'a mut [T]> {
    inside(op, &view.range, view.buffer.values().len())?;
    Ok(&mut view.buffer.values_mut(op)?[view.range])
}

/// An operand of an AdamW step over `len` elements, checked.
pub fn adam<'a, T: Float>(
    what: &'static str,
    target: ViewMut<'a, CpuBuffer<T>>,
    source: Option<View<'a, CpuBuffer<T>>>,
    len: usize,
) -> Result<Operand<'a, T>> {
    let target = write("adamw", target)?;
    let source = source.map(|view| read("adamw", view)).transpose()?;
    expect_len("adamw", what, target.len(), len)?;
    expect_len("adamw", what, source.map_or(len, <[T]>::len), len)?;
    Ok(Operand::new(source, target))
}

/// Parts that don't cover `len` elements in order, and hashes that aren't one a block, are refused.
pub fn adam_parts(parts: &[AdamPart], hashing: Option<&Hashing<'_>>, len: usize) -> Result<()> {
    let ordered = parts.windows(2).all(|pair| pair[0].end <= pair[1].end);
    let end = parts.last().map_or(0, |part| part.end);
    expect_len("adamw", "parts", if ordered { end } else { 0 }, len)?;
    let Some(Hashing { block, out, .. }) = hashing else {
        return Ok(());
    };
    if *block == 0 || !TASK.is_multiple_of(*block) {
        return Err(ComputeError::Shape {
            op: "adamw",
            what: "block",
            have: *block,
            want: TASK,
        });
    }
    out.iter()
        .try_for_each(|out| expect_len("adamw", "hashes", out.len(), len.div_ceil(*block)))
}

/// Refuses an operand of the wrong length.
pub fn expect_len(op: &'static str, what: &'static str, have: usize, want: usize) -> Result<()> {
    if have == want {
        Ok(())
    } else {
        Err(ComputeError::Shape { op, what, have, want })
    }
}

/// Operands that aren't as long as the shape says are refused.
pub fn product(shape: &Product, c: usize, a: usize, b: usize) -> Result<()> {
    let Product { m, n, k, .. } = *shape;
    expect_len("product", "c", c, m * n)?;
    expect_len("product", "a", a, m * k)?;
    expect_len("product", "b", b, k * n)
}

/// Tables of the rotation that are too short are refused.
pub fn rope(shape: &AttentionShape, cos: usize, sin: usize) -> Result<()> {
    let want = shape.seq_len * (shape.head_dim / 2);
    for (what, have) in [("cos", cos), ("sin", sin)] {
        if have < want {
            return Err(ComputeError::Shape {
                op: "rope",
                what,
                have,
                want,
            });
        }
    }
    Ok(())
}

/// Shapes that attention can't have are refused.
pub fn attention(op: &'static str, shape: &AttentionShape) -> Result<()> {
    let fits = shape.kv_heads > 0
        && shape.heads.is_multiple_of(shape.kv_heads)
        && shape.head_dim > 0
        && shape.seq_len > 0;
    if fits {
        Ok(())
    } else {
        Err(ComputeError::Shape {
            op,
            what: "heads",
            have: shape.heads,
            want: shape.kv_heads,
        })
    }
}

/// Multiply-adds of one product of causal attention over all heads.
pub fn pairs(shape: &AttentionShape) -> usize {
    shape.sequences * shape.heads * shape.head_dim * (shape.seq_len * (shape.seq_len + 1) / 2)
}

/// Indices outside a table of `len` rows are refused.
pub fn tokens(op: &'static str, tokens: &[u32], len: usize) -> Result<()> {
    match tokens.iter().position(|&t| t as usize >= len) {
        Some(at) => Err(ComputeError::Index {
            op,
            at,
            index: tokens[at],
            len,
        }),
        None => Ok(()),
    }
}

/// A range outside the accumulators is refused.
pub fn sums<F: Float>(op: &'static str, sums: &CpuSums<F>, range: &Range<usize>) -> Result<()> {
    if range.start <= range.end && range.end <= sums.len() {
        return Ok(());
    }
    Err(ComputeError::Range {
        op,
        start: range.start,
        end: range.end,
        len: sums.len(),
    })
}
