//! What a micro-batch in flight keeps for its backward pass, and the work space all of them share.
//!
//! Kept per block: its input, the fused queries/keys/values after rotation, attention's output and row sums, the
//! residual stream after attention, gate and up. Normed inputs and silu(gate)*up are computed anew in the backward
//! pass, inside passes that read their sources anyway. With `recompute` only the input is kept; all else is in one
//! set of buffers that the blocks use in turn.

use std::collections::BTreeMap;

use rekindle_compute::{Device, ElementBytes};
use rekindle_types::Part;

use super::{EngineError, Result, StageSpec};

/// Sizes of a stage's buffers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    pub rows: usize,
    pub hidden: usize,
    pub inter: usize,
    pub query: usize,
    /// Queries, keys and values.
    pub fused: usize,
    pub heads: usize,
    pub vocab: usize,
    /// See [`Device::logits_at_once`].
    logits: usize,
}

impl Widths {
    pub fn of<D: Device>(spec: &StageSpec, device: &D) -> Self {
        let model = &spec.model;
        Self {
            rows: spec.rows(),
            hidden: model.hidden_size as usize,
            inter: model.intermediate_size as usize,
            query: model.query_size(),
            fused: model.query_size() + 2 * model.key_value_size(),
            heads: model.num_attention_heads as usize,
            vocab: model.vocab_size as usize,
            logits: device.logits_at_once(),
        }
    }

    /// Rows of logits that are worked on at once, fixed by the shape and the kind of device.
    pub fn logit_rows(&self) -> usize {
        (self.logits / self.vocab).max(64).min(self.rows)
    }
}

/// One block's activations but its input.
pub(super) struct BlockSlot<D: Device> {
    /// Residual stream after attention.
    pub mid: D::Buffer,
    pub qkv: D::Buffer,
    pub attention: D::Buffer,
    pub lse: D::Buffer,
    pub rstd_in: D::Buffer,
    pub rstd_mid: D::Buffer,
    pub gate_up: D::Buffer,
}

impl<D: Device> BlockSlot<D> {
    pub fn new(device: &D, w: &Widths) -> Result<Self> {
        Ok(Self {
            mid: device.alloc(w.rows * w.hidden)?,
            qkv: device.alloc(w.rows * w.fused)?,
            attention: device.alloc(w.rows * w.query)?,
            lse: device.alloc_wide(w.rows * w.heads)?,
            rstd_in: device.alloc_wide(w.rows)?,
            rstd_mid: device.alloc_wide(w.rows)?,
            gate_up: device.alloc(w.rows * 2 * w.inter)?,
        })
    }

    pub fn bytes(w: &Widths, element: ElementBytes) -> usize {
        let rounded = w.hidden + w.fused + w.query + 2 * w.inter;
        w.rows * (rounded * element.activations + (w.heads + 2) * element.wide)
    }
}

/// One micro-batch's activations.
pub(super) struct Slot<D: Device> {
    pub tokens: D::Indices,
    pub targets: D::Indices,
    /// Residual stream before each block of the stage; one for all blocks where nothing is kept.
    pub inputs: Vec<D::Buffer>,
    /// What else is kept: one per block, or one that they use in turn (with `recompute` lent to the slot for a pass
    /// only).
    pub blocks: Vec<BlockSlot<D>>,
    /// The gradient that runs backward through the stage; before that, the input of a pass without blocks.
    pub dx: D::Buffer,
    /// The parts of the stage whose backward pass is to come.
    pub parts: Vec<Part>,
}

impl<D: Device> Slot<D> {
    pub fn new(device: &D, w: &Widths, inputs: usize, blocks: usize) -> Result<Self> {
        Ok(Self {
            tokens: device.alloc_indices()?,
            targets: device.alloc_indices()?,
            inputs: (0..inputs)
                .map(|_| device.alloc(w.rows * w.hidden))
                .collect::<std::result::Result<_, _>>()?,
            blocks: (0..blocks)
                .map(|_| BlockSlot::new(device, w))
                .collect::<Result<_>>()?,
            dx: device.alloc(w.rows * w.hidden)?,
            parts: Vec::new(),
        })
    }

    fn bytes(w: &Widths, element: ElementBytes, inputs: usize, blocks: usize) -> usize {
        blocks * BlockSlot::<D>::bytes(w, element) + (inputs + 1) * w.rows * w.hidden * element.activations
    }
}

/// Slots in flight by number, and free ones for reuse: as many as were ever in flight at once.
pub(super) struct Slots<D: Device> {
    inputs: usize,
    blocks: usize,
    flying: BTreeMap<u32, Slot<D>>,
    free: Vec<Slot<D>>,
}

impl<D: Device> Slots<D> {
    /// For a stage of `inputs` blocks, of which `blocks` keep all their activations.
    pub fn new(inputs: usize, blocks: usize) -> Self {
        Self {
            inputs,
            blocks,
            flying: BTreeMap::new(),
            free: Vec::new(),
        }
    }

    /// A slot for a forward pass through a part of the stage; give it back with [`Slots::put`].
    pub fn open(&mut self, device: &D, w: &Widths, (number, part): (u32, Part)) -> Result<Slot<D>> {
        let meets = |other: &Part| *other == part || [*other, part].contains(&Part::Whole);
        if let Some(slot) = self.flying.get(&number)
            && slot.parts.iter().any(meets)
        {
            let what = "its backward pass is still to come; use another slot or discard the gradients";
            return Err(EngineError::Order { slot: number, what });
        }
        match self.flying.remove(&number).or_else(|| self.free.pop()) {
            Some(slot) => Ok(slot),
            None => Slot::new(device, w, self.inputs, self.blocks),
        }
    }

    /// The slot of an earlier forward pass through this part, for its backward pass.
    pub fn take(&mut self, number: u32, part: Part) -> Result<Slot<D>> {
        let passed = |slot: &Slot<D>| slot.parts.iter().position(|other| *other == part);
        let at = self.flying.get(&number).and_then(passed);
        let what = "there was no forward pass to go back through";
        let missing = EngineError::Order { slot: number, what };
        let Some(at) = at else { return Err(missing) };
        let mut slot = self.flying.remove(&number).ok_or(missing)?;
        slot.parts.remove(at);
        Ok(slot)
    }

    /// Gives a slot back, which is free if no backward pass is to come; it stays readable until the next call that
    /// takes one.
    pub fn put(&mut self, number: u32, slot: Slot<D>) -> Option<&Slot<D>> {
        if slot.parts.is_empty() {
            self.free.push(slot);
            return self.free.last();
        }
        self.flying.insert(number, slot);
        self.flying.get(&number)
    }

    pub fn flying(&self, number: u32) -> Option<&Slot<D>> {
        self.flying.get(&number)
    }

    /// Drops what is in flight.
    pub fn release_all(&mut self) {
        for (_, mut slot) in std::mem::take(&mut self.flying) {
            slot.parts.clear();
            self.free.push(slot);
        }
    }

    pub fn bytes(&self, w: &Widths, element: ElementBytes) -> usize {
        (self.flying.len() + self.free.len()) * Slot::<D>::bytes(w, element, self.inputs, self.blocks)
    }
}

/// Work space.
pub(super) struct Scratch<D: Device> {
    /// `[rows, hidden]`: a normed input, later its gradient.
    pub normed: D::Buffer,
    /// `[rows, hidden]`: what a block's half adds to the residual stream; the stage's output.
    pub delta: D::Buffer,
    /// `[rows, max(inter, query)]`
    pub narrow: D::Buffer,
    /// `[rows, max(2 inter, fused)]`
    pub wide: D::Buffer,
    /// `[rows]`: the head's.
    pub rstd: D::Buffer,
    /// `[logit_rows, vocab]`, on the stage with the head.
    pub logits: D::Buffer,
    /// `[rows, hidden]`: the residual stream that enters the head.
    pub head_x: D::Buffer,
    /// A weight's gradient, as long as the largest one that is added from here.
    pub gradient: D::Buffer,
    bytes: usize,
}

impl<D: Device> Scratch<D> {
    pub fn new(device: &D, w: &Widths, blocks: bool, head: bool) -> Result<Self> {
        let block = |n: usize| if blocks { n } else { 0 };
        let of_head = |n: usize| if head { n } else { 0 };
        let narrow = block(w.rows * w.inter.max(w.query));
        let wide = block(w.rows * w.fused.max(2 * w.inter));
        let logits = of_head(w.logit_rows() * w.vocab);
        let gradient = block(w.hidden * w.fused.max(2 * w.inter).max(w.query))
            .max(of_head(w.vocab * w.hidden))
            .max(w.hidden);
        let (stream, element) = (w.rows * w.hidden, device.element_bytes());
        Ok(Self {
            normed: device.alloc(stream)?,
            delta: device.alloc(stream)?,
            narrow: device.alloc(narrow)?,
            wide: device.alloc(wide)?,
            rstd: device.alloc_wide(w.rows)?,
            logits: device.alloc(logits)?,
            head_x: device.alloc(of_head(stream))?,
            gradient: device.alloc_wide(gradient)?,
            bytes: (2 * stream + narrow + wide + logits + of_head(stream)) * element.activations
                + (w.rows + gradient) * element.wide,
        })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
