//! Forward and backward of micro-batches.

use std::borrow::Cow;

use rekindle_compute::{Device, part, whole, whole_mut};
use rekindle_types::{LayerId, Recompute};

use super::block::{self, Pass};
use super::slots::{BlockSlot, Scratch, Slot};
use super::state::LayerState;
use super::{EngineError, GradientSums, Result, Stage, StageInput, StageOutput, head, head_weights, pass};

/// Where the residual stream stands between layers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// In the first block's input, or in `dx` where the stage has no block.
    Input,
    /// `blocks[n].mid + scratch.delta`.
    After(usize),
}

impl<D: Device> Stage<D> {
    /// Runs a micro-batch forward and keeps what its backward pass needs in slot `micro_batch`.
    ///
    /// With the head, `targets` (one per row) gives the loss, and the head's gradients are added at once (see the module).
    ///
    /// # Errors
    /// [`EngineError::Order`] when the slot is in use or targets are missing, [`EngineError::Input`] for a wrong length or kind, and
    /// a token outside the vocabulary by its position.
    pub fn forward(
        &mut self,
        micro_batch: u32,
        input: StageInput<'_, D::Float>,
        targets: Option<&[u32]>,
    ) -> Result<StageOutput<'_, D::Float>> {
        let with_head = self.has(LayerId::Head);
        if with_head && targets.is_none() {
            let what = "the stage with the head needs targets; use forward_only or logits to go without";
            return Err(EngineError::Order {
                slot: micro_batch,
                what,
            });
        }
        let mut slot = self.slots.open(&*self.device, &self.widths, micro_batch)?;
        slot.blocks.append(&mut self.at_work);
        let result = self.forward_through(&mut slot, input, targets.filter(|_| with_head));
        self.take_back(&mut slot);
        match result {
            Ok(loss) => {
                self.slots.keep(micro_batch, slot);
                match loss {
                    Some(sum) => Ok(StageOutput::Loss { sum }),
                    None => self.output(micro_batch),
                }
            }
            Err(error) => {
                self.slots.release(slot);
                Err(error)
            }
        }
    }

    /// With `recompute`, buffers lent to a slot for a pass come back from it.
    fn take_back(&mut self, slot: &mut Slot<D>) {
        if self.spec.recompute == Recompute::Block {
            self.at_work.append(&mut slot.blocks);
        }
    }

    fn forward_through(
        &mut self,
        slot: &mut Slot<D>,
        input: StageInput<'_, D::Float>,
        targets: Option<&[u32]>,
    ) -> Result<Option<f64>> {
        self.enter(slot, input, self.widths.rows)?;
        if let Some(targets) = targets {
            expect("targets", targets.len(), self.widths.rows)?;
            self.device.write_indices(&mut slot.targets, targets)?;
        }
        let blocks = self.blocks();
        let tied = self.spec.model.tie_word_embeddings;
        let shape = (self.spec.micro_batch as usize, self.spec.seq_len as usize);
        let pass = pass(&*self.device, &self.widths, &self.rope, &self.spec, shape);
        let states = blocks
            .iter()
            .filter_map(|l| self.states.get(l))
            .collect::<Vec<_>>();
        let at = through_blocks(&pass, &states, slot, &mut self.scratch)?;
        if targets.is_none() {
            finish_output(&pass, at, slot, &mut self.scratch)?;
            return Ok(None);
        }
        let weights = head_weights(&self.states, tied)?;
        head::norm(
            &pass,
            &weights,
            stream(at, slot),
            at != At::Input,
            &mut self.scratch,
        )?;
        let Slot { targets, dx, .. } = slot;
        let scratch = &mut self.scratch;
        head::loss_and_gradient(&pass, &weights, targets, dx, scratch, &mut self.gradients).map(Some)
    }

    /// Puts the input where the first layer expects it.
    pub(super) fn enter(
        &self,
        slot: &mut Slot<D>,
        input: StageInput<'_, D::Float>,
        rows: usize,
    ) -> Result<()> {
        self.states.values().try_for_each(LayerState::complete)?;
        let wide = rows * self.widths.hidden;
        let Slot {
            tokens, inputs, dx, ..
        } = slot;
        let x = inputs.first_mut().unwrap_or(dx);
        match (input, self.has(LayerId::Embed)) {
            (StageInput::Tokens(ids), true) => {
                expect("tokens", ids.len(), rows)?;
                self.device.write_indices(tokens, ids)?;
                let table = &self.state(LayerId::Embed)?.weights;
                let table = part(table, 0..self.widths.vocab * self.widths.hidden);
                Ok(self
                    .device
                    .gather(self.widths.hidden, table, tokens, whole_mut(x, wide))?)
            }
            (StageInput::Activations(values), false) => {
                expect("activations", values.len(), wide)?;
                Ok(self.device.write(whole_mut(x, wide), values)?)
            }
            (StageInput::Tokens(ids), false) => Err(EngineError::Input {
                what: "tokens, on a stage without the embedding: give activations",
                have: ids.len(),
                want: 0,
            }),
            (StageInput::Activations(values), true) => Err(EngineError::Input {
                what: "activations, on the stage with the embedding: give tokens",
                have: values.len(),
                want: 0,
            }),
        }
    }

    fn output(&self, micro_batch: u32) -> Result<StageOutput<'_, D::Float>> {
        let wide = self.widths.rows * self.widths.hidden;
        let source = match self.slots.flying(micro_batch) {
            Some(slot) if slot.inputs.is_empty() => &slot.dx,
            _ => &self.scratch.delta,
        };
        Ok(StageOutput::Activations(self.device.read(whole(source, wide))?))
    }

    /// Runs a micro-batch backward and frees its slot. `grad_output` is the gradient of the stage's output (`[rows, hidden]`, None with the
    /// head). `layer_done` is called for each of the stage's layers, last first, as soon as its sums hold this micro-batch; a
    /// mirrored embedding's are complete when the head is reported. Returns the gradient of the input, None with the embedding.
    ///
    /// # Errors
    /// [`EngineError::Order`] without a forward pass, [`EngineError::Input`] for a wrong length.
    pub fn backward(
        &mut self,
        micro_batch: u32,
        grad_output: Option<&[D::Float]>,
        layer_done: &mut dyn FnMut(&mut GradientSums<D>, LayerId),
    ) -> Result<Option<Cow<'_, [D::Float]>>> {
        let wide = self.widths.rows * self.widths.hidden;
        let given = grad_output.map_or(0, <[D::Float]>::len);
        expect(
            "gradient of the output",
            given,
            if self.has(LayerId::Head) { 0 } else { wide },
        )?;
        let mut slot = self.slots.take(micro_batch)?;
        slot.blocks.append(&mut self.at_work);
        let done = self.backward_through(&mut slot, grad_output, layer_done);
        self.take_back(&mut slot);
        let slot = self.slots.release(slot);
        done?;
        match slot {
            Some(slot) if self.ids.first() != Some(&LayerId::Embed) => {
                Ok(Some(self.device.read(whole(&slot.dx, wide))?))
            }
            _ => Ok(None),
        }
    }

    fn backward_through(
        &mut self,
        slot: &mut Slot<D>,
        grad_output: Option<&[D::Float]>,
        layer_done: &mut dyn FnMut(&mut GradientSums<D>, LayerId),
    ) -> Result<()> {
        let wide = self.widths.rows * self.widths.hidden;
        if let Some(values) = grad_output {
            self.device.write(whole_mut(&mut slot.dx, wide), values)?;
        }
        if self.has(LayerId::Head) {
            layer_done(&mut self.gradients, LayerId::Head);
        }
        let shape = (self.spec.micro_batch as usize, self.spec.seq_len as usize);
        let pass = pass(&*self.device, &self.widths, &self.rope, &self.spec, shape);
        let blocks = self.ids.iter().filter(|l| matches!(l, LayerId::Block(_)));
        let Slot {
            inputs,
            blocks: kept,
            dx,
            ..
        } = &mut *slot;
        let (again, count) = (self.spec.recompute == Recompute::Block, kept.len().max(1));
        for (n, (layer, x)) in blocks
            .zip(inputs)
            .enumerate()
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            let state = self
                .states
                .get(layer)
                .ok_or(EngineError::Layer { layer: *layer })?;
            let kept = &mut kept[n % count];
            let scratch = &mut self.scratch;
            if again {
                block::enter(&pass, state, None, x, &mut kept.rstd_in, scratch)?;
                block::attend(&pass, state, x, kept, scratch)?;
            }
            block::backward(&pass, state, x, kept, dx, scratch, &mut self.gradients)?;
            layer_done(&mut self.gradients, *layer);
        }
        if self.ids.first() == Some(&LayerId::Embed) {
            let (device, sums) = self.gradients.sums(LayerId::Embed)?;
            device.accumulate_rows(sums, self.widths.hidden, &slot.tokens, whole(&slot.dx, wide))?;
            layer_done(&mut self.gradients, LayerId::Embed);
        }
        Ok(())
    }
}

/// The buffer that holds the residual stream, or its part before the pending addition.
pub(super) fn stream<D: Device>(at: At, slot: &Slot<D>) -> &D::Buffer {
    match at {
        At::Input => slot.inputs.first().unwrap_or(&slot.dx),
        At::After(n) => &slot.blocks[n].mid,
    }
}

/// All blocks of a stage; where there are fewer buffers than blocks, they take turns.
pub(super) fn through_blocks<D: Device>(
    pass: &Pass<'_, D>,
    states: &[&LayerState<D>],
    slot: &mut Slot<D>,
    scratch: &mut Scratch<D>,
) -> Result<At> {
    let Slot { inputs, blocks, .. } = slot;
    let (held, count) = (inputs.len().max(1), blocks.len().max(1));
    let mut at = At::Input;
    for (n, state) in states.iter().enumerate() {
        let (x, here) = (&mut inputs[n % held], n % count);
        enter_block(pass, state, at, x, (&mut *blocks, here), scratch)?;
        block::attend(pass, state, x, &mut blocks[here], scratch)?;
        block::leave(pass, state, &blocks[here], scratch)?;
        at = At::After(here);
    }
    Ok(at)
}

/// The first norm of the block that uses `blocks[here]`; the block before it may have used the same.
fn enter_block<D: Device>(
    pass: &Pass<'_, D>,
    state: &LayerState<D>,
    at: At,
    x: &mut D::Buffer,
    (blocks, here): (&mut [BlockSlot<D>], usize),
    scratch: &mut Scratch<D>,
) -> Result<()> {
    match at {
        At::After(before) if before != here => match blocks.get_disjoint_mut([before, here]) {
            Ok([b, h]) => block::enter(pass, state, Some(&b.mid), x, &mut h.rstd_in, scratch),
            Err(_) => Err(EngineError::Spec {
                what: format!("blocks {before} and {here} have no buffers"),
            }),
        },
        At::After(_) => {
            let BlockSlot { mid, rstd_in, .. } = &mut blocks[here];
            block::enter(pass, state, Some(mid), x, rstd_in, scratch)
        }
        At::Input => block::enter(pass, state, None, x, &mut blocks[here].rstd_in, scratch),
    }
}

/// Carries out the pending addition: the stage's output is then in `scratch.delta` (or, without blocks, still in the input).
pub(super) fn finish_output<D: Device>(
    pass: &Pass<'_, D>,
    at: At,
    slot: &Slot<D>,
    scratch: &mut Scratch<D>,
) -> Result<()> {
    let wide = pass.rows() * pass.widths.hidden;
    if at != At::Input {
        pass.device
            .add(whole_mut(&mut scratch.delta, wide), whole(stream(at, slot), wide))?;
    }
    Ok(())
}

pub(super) fn expect(what: &'static str, have: usize, want: usize) -> Result<()> {
    if have == want {
        Ok(())
    } else {
        Err(EngineError::Input { what, have, want })
    }
}
