//! Forward and backward of micro-batches.

use std::borrow::Cow;

use rekindle_compute::{Device, part, whole, whole_mut};
use rekindle_types::LayerId;

use super::block::{self, Pass, Stream};
use super::slots::{Scratch, Slot};
use super::state::LayerState;
use super::{EngineError, GradientSums, Result, Stage, StageInput, StageOutput, head, head_weights, pass};

/// Where the residual stream stands between layers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// In the first block's `x`, or in `dx` where the stage has no block.
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
        match self.forward_through(&mut slot, input, targets.filter(|_| with_head)) {
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
            tokens, blocks, dx, ..
        } = slot;
        let x = blocks.first_mut().map_or(dx, |b| &mut b.x);
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
            Some(slot) if slot.blocks.is_empty() => &slot.dx,
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
        let done = self.backward_through(&mut slot, grad_output, layer_done);
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
        for (layer, kept) in blocks.zip(&slot.blocks).collect::<Vec<_>>().into_iter().rev() {
            let state = self
                .states
                .get(layer)
                .ok_or(EngineError::Layer { layer: *layer })?;
            block::backward(
                &pass,
                state,
                kept,
                &mut slot.dx,
                &mut self.scratch,
                &mut self.gradients,
            )?;
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
        At::Input => slot.blocks.first().map_or(&slot.dx, |b| &b.x),
        At::After(n) => &slot.blocks[n].mid,
    }
}

/// All blocks of a stage, the slot's block buffers in turn.
pub(super) fn through_blocks<D: Device>(
    pass: &Pass<'_, D>,
    states: &[&LayerState<D>],
    slot: &mut Slot<D>,
    scratch: &mut Scratch<D>,
) -> Result<At> {
    let count = slot.blocks.len();
    let mut at = At::Input;
    for (n, state) in states.iter().enumerate() {
        let here = n % count;
        match at {
            At::Input => block::forward(pass, state, Stream::InPlace, &mut slot.blocks[here], scratch)?,
            At::After(before) => {
                let [previous, current] =
                    slot.blocks
                        .get_disjoint_mut([before, here])
                        .map_err(|_| EngineError::Spec {
                            what: "blocks need at least two buffers to take turns".to_owned(),
                        })?;
                block::forward(pass, state, Stream::Pending(&previous.mid), current, scratch)?;
            }
        }
        at = At::After(here);
    }
    Ok(at)
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
