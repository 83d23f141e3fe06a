//! Checks of the CPU's operands: every range and length is looked at before a kernel runs.

use std::ops::Range;

use super::CpuSums;
use super::adamw::Operand;
use super::held::CpuBuffer;
use super::sums::TASK;
pub use crate::operands::*;
use crate::{
    AdamPart, AdamSource, AdamTarget, AttentionShape, ComputeError, Float, Hashing, Result, View, ViewMut,
};

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

/// The operands of an AdamW step over `len` elements, checked.
pub fn adam_all<'a, T: Float>(
    target: AdamTarget<'a, CpuBuffer<T>>,
    source: AdamSource<'a, CpuBuffer<T>>,
    len: usize,
) -> Result<[Operand<'a, T>; 3]> {
    let weights = adam("weights", target.weights, source.weights, len)?;
    let [exp_avg, exp_avg_sq] = adam_moments(
        [target.exp_avg, target.exp_avg_sq],
        [source.exp_avg, source.exp_avg_sq],
        len,
    )?;
    Ok([weights, exp_avg, exp_avg_sq])
}

/// Those of the moments alone.
pub fn adam_moments<'a, T: Float>(
    [exp_avg, exp_avg_sq]: [ViewMut<'a, CpuBuffer<T>>; 2],
    [from_avg, from_sq]: [Option<View<'a, CpuBuffer<T>>>; 2],
    len: usize,
) -> Result<[Operand<'a, T>; 2]> {
    Ok([
        adam("exp_avg", exp_avg, from_avg, len)?,
        adam("exp_avg_sq", exp_avg_sq, from_sq, len)?,
    ])
}

fn adam<'a, T: Float>(
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
    adam_cover(parts, len)?;
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

/// Multiply-adds of one product of causal attention over all heads.
pub fn pairs(shape: &AttentionShape) -> usize {
    shape.sequences * shape.heads * shape.head_dim * (shape.seq_len * (shape.seq_len + 1) / 2)
}

/// A range outside the accumulators, or one that doesn't begin with a block, is refused.
pub fn blocks<F: Float>(
    op: &'static str,
    accumulators: &CpuSums<F>,
    range: &Range<usize>,
    block: usize,
) -> Result<()> {
    sums(op, accumulators, range)?;
    if block == 0 || !range.start.is_multiple_of(block) {
        return Err(ComputeError::Shape {
            op,
            what: "range.start",
            have: range.start,
            want: block,
        });
    }
    Ok(())
}

/// A range outside the accumulators is refused.
pub fn sums<F: Float>(op: &'static str, sums: &CpuSums<F>, range: &Range<usize>) -> Result<()> {
    inside(op, range, sums.len())
}
