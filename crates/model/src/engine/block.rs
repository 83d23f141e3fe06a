//! One transformer block, forward and backward.
//!
//! The residual stream enters as (x, delta): the addition is done by the block's first norm, in the same pass. A
//! block whose activations weren't kept is run again from its input: the norm then reads the sum that it wrote the
//! first time, so every bit is the same.

use std::ops::Range;

use rekindle_compute::{AttentionShape, Device, Product, part, whole, whole_mut};

use super::Result;
use super::gradients::GradientSums;
use super::rope::Rope;
use super::slots::{BlockSlot, Scratch, Widths};
use super::state::LayerState;

/// What every pass through a block needs.
pub(super) struct Pass<'a, D: Device> {
    pub device: &'a D,
    pub widths: &'a Widths,
    pub rope: &'a Rope<D>,
    pub attention: AttentionShape,
    pub eps: f64,
}

impl<D: Device> Pass<'_, D> {
    pub fn rows(&self) -> usize {
        self.attention.rows()
    }
}

/// Where a block's tensors lie in its flat buffer. Queries, keys and values are one matrix, gate and up another.
pub(super) struct Places {
    norm_in: Range<usize>,
    qkv: Range<usize>,
    out: Range<usize>,
    norm_mid: Range<usize>,
    gate_up: Range<usize>,
    down: Range<usize>,
}

impl Places {
    pub fn of<D: Device>(state: &LayerState<D>) -> Self {
        let single = |name| state.range(name, name);
        Self {
            norm_in: single("input_layernorm.weight"),
            qkv: state.range("q_proj.weight", "v_proj.weight"),
            out: single("o_proj.weight"),
            norm_mid: single("post_attention_layernorm.weight"),
            gate_up: state.range("gate_proj.weight", "up_proj.weight"),
            down: single("down_proj.weight"),
        }
    }
}

/// `y[rows, out] = x[rows, in] W[out, in]^T`
pub(super) fn linear(rows: usize, out: usize, inputs: usize) -> Product {
    Product {
        m: rows,
        n: out,
        k: inputs,
        transpose_a: false,
        transpose_b: true,
        accumulate: false,
    }
}

/// `dx[rows, in] = dy[rows, out] W[out, in]`
pub(super) fn linear_input(rows: usize, out: usize, inputs: usize) -> Product {
    Product {
        m: rows,
        n: inputs,
        k: out,
        transpose_a: false,
        transpose_b: false,
        accumulate: false,
    }
}

/// `dW[out, in] = dy[rows, out]^T x[rows, in]`
pub(super) fn linear_weight(rows: usize, out: usize, inputs: usize) -> Product {
    Product {
        m: out,
        n: inputs,
        k: rows,
        transpose_a: true,
        transpose_b: false,
        accumulate: false,
    }
}

/// The block's first norm, into `scratch.normed`. The residual stream is `x`, or with `before` the sum of that and
/// `scratch.delta`, which is written to `x`.
pub(super) fn enter<D: Device>(
    pass: &Pass<'_, D>,
    state: &LayerState<D>,
    before: Option<&D::Buffer>,
    x: &mut D::Buffer,
    rstd: &mut D::Buffer,
    scratch: &mut Scratch<D>,
) -> Result<()> {
    let (device, rows) = (pass.device, pass.rows());
    let wide = rows * pass.widths.hidden;
    let weight = part(&state.weights, Places::of(state).norm_in);
    let (normed, rstd) = (whole_mut(&mut scratch.normed, wide), whole_mut(rstd, rows));
    match before {
        None => device.norm(whole(x, wide), None, weight, pass.eps, normed, rstd)?,
        Some(before) => {
            let delta = Some((whole(&scratch.delta, wide), whole_mut(x, wide)));
            device.norm(whole(before, wide), delta, weight, pass.eps, normed, rstd)?;
        }
    }
    Ok(())
}

/// From the first norm to gate and up: everything that the backward pass reads.
pub(super) fn attend<D: Device>(
    pass: &Pass<'_, D>,
    state: &LayerState<D>,
    x: &D::Buffer,
    slot: &mut BlockSlot<D>,
    scratch: &mut Scratch<D>,
) -> Result<()> {
    let (device, w, rows) = (pass.device, pass.widths, pass.rows());
    let (places, weights) = (Places::of(state), &state.weights);
    let wide = rows * w.hidden;
    let normed = whole(&scratch.normed, wide);
    let qkv = whole_mut(&mut slot.qkv, rows * w.fused);
    device.product(
        linear(rows, w.fused, w.hidden),
        qkv,
        normed,
        part(weights, places.qkv),
    )?;
    let (cos, sin) = (
        whole(&pass.rope.cos, pass.rope.len),
        whole(&pass.rope.sin, pass.rope.len),
    );
    device.rope(
        pass.attention,
        whole_mut(&mut slot.qkv, rows * w.fused),
        cos,
        sin,
        false,
    )?;
    let out = whole_mut(&mut slot.attention, rows * w.query);
    let lse = whole_mut(&mut slot.lse, rows * w.heads);
    device.attention(pass.attention, whole(&slot.qkv, rows * w.fused), out, lse)?;
    let delta = whole_mut(&mut scratch.delta, wide);
    let attention = whole(&slot.attention, rows * w.query);
    device.product(
        linear(rows, w.hidden, w.query),
        delta,
        attention,
        part(weights, places.out),
    )?;

    let delta = Some((whole(&scratch.delta, wide), whole_mut(&mut slot.mid, wide)));
    let (normed, rstd) = (
        whole_mut(&mut scratch.normed, wide),
        whole_mut(&mut slot.rstd_mid, rows),
    );
    device.norm(
        whole(x, wide),
        delta,
        part(weights, places.norm_mid),
        pass.eps,
        normed,
        rstd,
    )?;
    let gate_up = whole_mut(&mut slot.gate_up, rows * 2 * w.inter);
    let normed = whole(&scratch.normed, wide);
    device.product(
        linear(rows, 2 * w.inter, w.hidden),
        gate_up,
        normed,
        part(weights, places.gate_up),
    )?;
    Ok(())
}

/// Leaves the residual stream as (slot.mid, scratch.delta).
pub(super) fn leave<D: Device>(
    pass: &Pass<'_, D>,
    state: &LayerState<D>,
    slot: &BlockSlot<D>,
    scratch: &mut Scratch<D>,
) -> Result<()> {
    let (device, w, rows) = (pass.device, pass.widths, pass.rows());
    let (places, weights) = (Places::of(state), &state.weights);
    let gate_up = whole(&slot.gate_up, rows * 2 * w.inter);
    device.swiglu(w.inter, gate_up, whole_mut(&mut scratch.narrow, rows * w.inter))?;
    let delta = whole_mut(&mut scratch.delta, rows * w.hidden);
    let narrow = whole(&scratch.narrow, rows * w.inter);
    device.product(
        linear(rows, w.hidden, w.inter),
        delta,
        narrow,
        part(weights, places.down),
    )?;
    Ok(())
}

/// Turns `dx` from the gradient of the block's output into that of its input `x`, and adds the weights' gradients.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward<D: Device>(
    pass: &Pass<'_, D>,
    state: &LayerState<D>,
    x: &D::Buffer,
    slot: &BlockSlot<D>,
    dx: &mut D::Buffer,
    scratch: &mut Scratch<D>,
    gradients: &mut GradientSums<D>,
) -> Result<()> {
    let places = Places::of(state);
    backward_mlp(pass, state, &places, slot, dx, scratch, gradients)?;
    backward_attention(pass, state, &places, (x, slot), dx, scratch, gradients)
}

#[allow(clippy::too_many_arguments)]
fn backward_mlp<D: Device>(
    pass: &Pass<'_, D>,
    state: &LayerState<D>,
    places: &Places,
    slot: &BlockSlot<D>,
    dx: &mut D::Buffer,
    scratch: &mut Scratch<D>,
    gradients: &mut GradientSums<D>,
) -> Result<()> {
    let (device, w, rows) = (pass.device, pass.widths, pass.rows());
    let (wide, weights) = (rows * w.hidden, &state.weights);
    let (_, sums) = gradients.sums(state.layout.layer)?;
    let narrow = whole_mut(&mut scratch.narrow, rows * w.inter);
    let down = part(weights, places.down.clone());
    device.product(
        linear_input(rows, w.hidden, w.inter),
        narrow,
        whole(dx, wide),
        down,
    )?;
    let narrow = whole_mut(&mut scratch.narrow, rows * w.inter);
    let dgate_up = whole_mut(&mut scratch.wide, rows * 2 * w.inter);
    device.swiglu_backward(
        w.inter,
        whole(&slot.gate_up, rows * 2 * w.inter),
        narrow,
        dgate_up,
    )?;
    let shape = linear_weight(rows, w.hidden, w.inter);
    let space = whole_mut(&mut scratch.gradient, shape.m * shape.n);
    let narrow = whole(&scratch.narrow, rows * w.inter);
    device.accumulate_product(sums, places.down.start, shape, whole(dx, wide), narrow, space)?;

    let (normed, dgate_up) = (
        whole_mut(&mut scratch.normed, wide),
        whole(&scratch.wide, rows * 2 * w.inter),
    );
    let matrix = part(weights, places.gate_up.clone());
    device.product(
        linear_input(rows, 2 * w.inter, w.hidden),
        normed,
        dgate_up.clone(),
        matrix,
    )?;
    device.norm_backward(
        whole(&slot.mid, wide),
        part(weights, places.norm_mid.clone()),
        whole(&slot.rstd_mid, rows),
        whole_mut(&mut scratch.normed, wide),
        whole_mut(dx, wide),
        whole_mut(&mut scratch.gradient, w.hidden),
    )?;
    device.accumulate(sums, places.norm_mid.start, whole(&scratch.gradient, w.hidden))?;
    let shape = linear_weight(rows, 2 * w.inter, w.hidden);
    let space = whole_mut(&mut scratch.gradient, shape.m * shape.n);
    let normed = whole(&scratch.normed, wide);
    device.accumulate_product(sums, places.gate_up.start, shape, dgate_up, normed, space)?;
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn backward_attention<D: Device>(
    pass: &Pass<'_, D>,
    state: &LayerState<D>,
    places: &Places,
    (x, slot): (&D::Buffer, &BlockSlot<D>),
    dx: &mut D::Buffer,
    scratch: &mut Scratch<D>,
    gradients: &mut GradientSums<D>,
) -> Result<()> {
    let (device, w, rows) = (pass.device, pass.widths, pass.rows());
    let (wide, weights) = (rows * w.hidden, &state.weights);
    let (_, sums) = gradients.sums(state.layout.layer)?;
    let narrow = whole_mut(&mut scratch.narrow, rows * w.query);
    let matrix = part(weights, places.out.clone());
    device.product(
        linear_input(rows, w.hidden, w.query),
        narrow,
        whole(dx, wide),
        matrix,
    )?;
    let shape = linear_weight(rows, w.hidden, w.query);
    let space = whole_mut(&mut scratch.gradient, shape.m * shape.n);
    let attention = whole(&slot.attention, rows * w.query);
    device.accumulate_product(
        sums,
        places.out.start,
        shape,
        whole(dx, wide),
        attention.clone(),
        space,
    )?;
    let dqkv = whole_mut(&mut scratch.wide, rows * w.fused);
    let dout = whole(&scratch.narrow, rows * w.query);
    let (qkv, lse) = (whole(&slot.qkv, rows * w.fused), whole(&slot.lse, rows * w.heads));
    device.attention_backward(pass.attention, qkv, attention, lse, dout, dqkv)?;
    let (cos, sin) = (
        whole(&pass.rope.cos, pass.rope.len),
        whole(&pass.rope.sin, pass.rope.len),
    );
    device.rope(
        pass.attention,
        whole_mut(&mut scratch.wide, rows * w.fused),
        cos,
        sin,
        true,
    )?;

    let (normed, dqkv) = (
        whole_mut(&mut scratch.normed, wide),
        whole(&scratch.wide, rows * w.fused),
    );
    let matrix = part(weights, places.qkv.clone());
    device.product(
        linear_input(rows, w.fused, w.hidden),
        normed,
        dqkv.clone(),
        matrix,
    )?;
    device.norm_backward(
        whole(x, wide),
        part(weights, places.norm_in.clone()),
        whole(&slot.rstd_in, rows),
        whole_mut(&mut scratch.normed, wide),
        whole_mut(dx, wide),
        whole_mut(&mut scratch.gradient, w.hidden),
    )?;
    device.accumulate(sums, places.norm_in.start, whole(&scratch.gradient, w.hidden))?;
    let shape = linear_weight(rows, w.fused, w.hidden);
    let space = whole_mut(&mut scratch.gradient, shape.m * shape.n);
    let normed = whole(&scratch.normed, wide);
    device.accumulate_product(sums, places.qkv.start, shape, dqkv, normed, space)?;
    Ok(())
}
