//! The head: final norm, output matrix, loss. Logits exist for a fixed number of rows at a time.
//!
//! With a gradient wanted, loss and gradient come from one pass: logits are never computed twice and never kept.

use std::ops::Range;

use rekindle_compute::{Device, Product, part, part_mut, whole, whole_mut};
use rekindle_types::LayerId;

use super::Result;
use super::block::{Pass, linear, linear_input, linear_weight};
use super::gradients::GradientSums;
use super::slots::Scratch;
use super::state::LayerState;

/// The head's weights, wherever they are.
pub(super) struct HeadWeights<'a, D: Device> {
    pub norm: &'a D::Buffer,
    pub norm_at: Range<usize>,
    pub matrix: &'a D::Buffer,
    pub matrix_at: Range<usize>,
    /// Whose gradient the matrix's is.
    pub matrix_layer: LayerId,
}

impl<'a, D: Device> HeadWeights<'a, D> {
    /// `head` is the head's layer, `embed` the embedding (or its mirror) where it is tied.
    pub fn of(head: &'a LayerState<D>, embed: Option<&'a LayerState<D>>) -> Self {
        let norm_at = head.range("model.norm.weight", "model.norm.weight");
        let (owner, name) = embed.map_or((head, "lm_head.weight"), |e| (e, "embed_tokens.weight"));
        Self {
            norm: &head.weights,
            norm_at,
            matrix: &owner.weights,
            matrix_at: owner.range(name, name),
            matrix_layer: owner.layout.layer,
        }
    }
}

/// Final norm of `x + scratch.delta` (or of `x`) into `scratch.normed`, the sum in `scratch.head_x`.
pub(super) fn norm<D: Device>(
    pass: &Pass<'_, D>,
    weights: &HeadWeights<'_, D>,
    x: &D::Buffer,
    pending: bool,
    scratch: &mut Scratch<D>,
) -> Result<()> {
    let (rows, wide) = (pass.rows(), pass.rows() * pass.widths.hidden);
    let device = pass.device;
    if !pending {
        // The sum is then the input itself; a copy keeps one path for what follows.
        let values = device.read(whole(x, wide))?;
        device.write(whole_mut(&mut scratch.head_x, wide), &values)?;
        let normed = whole_mut(&mut scratch.normed, wide);
        let norm = part(weights.norm, weights.norm_at.clone());
        device.norm(
            whole(x, wide),
            None,
            norm,
            pass.eps,
            normed,
            whole_mut(&mut scratch.rstd, rows),
        )?;
        return Ok(());
    }
    let delta = Some((whole(&scratch.delta, wide), whole_mut(&mut scratch.head_x, wide)));
    let norm = part(weights.norm, weights.norm_at.clone());
    let normed = whole_mut(&mut scratch.normed, wide);
    device.norm(
        whole(x, wide),
        delta,
        norm,
        pass.eps,
        normed,
        whole_mut(&mut scratch.rstd, rows),
    )?;
    Ok(())
}

/// Logits of `rows` of `scratch.normed` into `scratch.logits`.
pub(super) fn logits<D: Device>(
    pass: &Pass<'_, D>,
    weights: &HeadWeights<'_, D>,
    rows: &Range<usize>,
    scratch: &mut Scratch<D>,
) -> Result<()> {
    let (hidden, vocab) = (pass.widths.hidden, pass.widths.vocab);
    let normed = part(&scratch.normed, rows.start * hidden..rows.end * hidden);
    let out = whole_mut(&mut scratch.logits, rows.len() * vocab);
    let matrix = part(weights.matrix, weights.matrix_at.clone());
    Ok(pass
        .device
        .product(linear(rows.len(), vocab, hidden), out, normed, matrix)?)
}

fn chunks(rows: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows)
        .step_by(step.max(1))
        .map(move |from| from..(from + step).min(rows))
}

/// The summed loss of `scratch.normed`.
pub(super) fn loss<D: Device>(
    pass: &Pass<'_, D>,
    weights: &HeadWeights<'_, D>,
    targets: &D::Indices,
    scratch: &mut Scratch<D>,
) -> Result<f64> {
    let mut sum = 0.0;
    for rows in chunks(pass.rows(), pass.widths.logit_rows()) {
        logits(pass, weights, &rows, scratch)?;
        let all = whole_mut(&mut scratch.logits, rows.len() * pass.widths.vocab);
        sum += pass.device.cross_entropy(all, targets, rows, false)?;
    }
    Ok(sum)
}

/// The summed loss; adds the gradients of norm and matrix, and writes the gradient of the head's input to `dx`.
pub(super) fn loss_and_gradient<D: Device>(
    pass: &Pass<'_, D>,
    weights: &HeadWeights<'_, D>,
    targets: &D::Indices,
    dx: &mut D::Buffer,
    scratch: &mut Scratch<D>,
    gradients: &mut GradientSums<D>,
) -> Result<f64> {
    let (hidden, vocab, wide) = (
        pass.widths.hidden,
        pass.widths.vocab,
        pass.rows() * pass.widths.hidden,
    );
    let step = pass.widths.logit_rows();
    let whole_at_once = step >= pass.rows();
    let mut sum = 0.0;
    for rows in chunks(pass.rows(), step) {
        logits(pass, weights, &rows, scratch)?;
        let all = whole_mut(&mut scratch.logits, rows.len() * vocab);
        sum += pass.device.cross_entropy(all, targets, rows.clone(), true)?;
        let dlogits = whole(&scratch.logits, rows.len() * vocab);
        let normed = part(&scratch.normed, rows.start * hidden..rows.end * hidden);
        let shape = linear_weight(rows.len(), vocab, hidden);
        if whole_at_once {
            let (device, sums) = gradients.sums(weights.matrix_layer)?;
            let space = whole_mut(&mut scratch.gradient, vocab * hidden);
            device.accumulate_product(
                sums,
                weights.matrix_at.start,
                shape,
                dlogits.clone(),
                normed,
                space,
            )?;
        } else {
            let shape = Product {
                accumulate: rows.start > 0,
                ..shape
            };
            let space = whole_mut(&mut scratch.gradient, vocab * hidden);
            pass.device.product(shape, space, dlogits.clone(), normed)?;
        }
        // The normed rows of this chunk aren't needed any more: their place takes the gradient.
        let dnormed = part_mut(&mut scratch.normed, rows.start * hidden..rows.end * hidden);
        let matrix = part(weights.matrix, weights.matrix_at.clone());
        pass.device
            .product(linear_input(rows.len(), vocab, hidden), dnormed, dlogits, matrix)?;
    }
    if !whole_at_once {
        let (device, sums) = gradients.sums(weights.matrix_layer)?;
        device.accumulate(
            sums,
            weights.matrix_at.start,
            whole(&scratch.gradient, vocab * hidden),
        )?;
    }
    norm_backward(pass, weights, dx, wide, scratch, gradients)?;
    Ok(sum)
}

fn norm_backward<D: Device>(
    pass: &Pass<'_, D>,
    weights: &HeadWeights<'_, D>,
    dx: &mut D::Buffer,
    wide: usize,
    scratch: &mut Scratch<D>,
    gradients: &mut GradientSums<D>,
) -> Result<()> {
    let hidden = pass.widths.hidden;
    pass.device.fill_zero(whole_mut(dx, wide))?;
    pass.device.norm_backward(
        whole(&scratch.head_x, wide),
        part(weights.norm, weights.norm_at.clone()),
        whole(&scratch.rstd, pass.rows()),
        whole_mut(&mut scratch.normed, wide),
        whole_mut(dx, wide),
        whole_mut(&mut scratch.gradient, hidden),
    )?;
    let (device, sums) = gradients.sums(LayerId::Head)?;
    Ok(device.accumulate(sums, weights.norm_at.start, whole(&scratch.gradient, hidden))?)
}
