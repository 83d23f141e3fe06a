//! [`Device::adamw_with`] for devices that only know accumulators: the gradient becomes some. In: operands and a mean
//! gradient. Out: the same bits as with the accumulators that it was made of, but for the sign of a zero.

use crate::{AdamPart, AdamSource, AdamStep, AdamTarget, Device, Result, SumKind, part_mut};

/// The step. Without weights, some that nobody reads are updated with the moments.
pub(crate) fn adamw<D: Device>(
    device: &D,
    (target, source): (AdamTarget<'_, D::Buffer>, AdamSource<'_, D::Buffer>),
    gradient: &[D::Float],
    step: &AdamStep,
    parts: &[AdamPart],
) -> Result<()> {
    let (all, step) = (0..gradient.len(), AdamStep { tokens: 1, ..*step });
    let mut sums = device.alloc_sums(SumKind::Float, all.end)?;
    device.add_sums_bytes(&mut sums, all.clone(), bytemuck::cast_slice(gradient))?;
    let moments_alone = target.weights.range.is_empty();
    let mut unread = device.alloc_weights(if moments_alone { all.end } else { 0 })?;
    let (target, source) = match moments_alone {
        true => (
            AdamTarget {
                weights: part_mut(&mut unread, all.clone()),
                ..target
            },
            AdamSource {
                weights: None,
                ..source
            },
        ),
        false => (target, source),
    };
    device
        .adamw(target, source, &mut sums, all, &step, parts, None)
        .map(drop)
}
