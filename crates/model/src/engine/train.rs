//! Forward and backward of micro-batches, through a whole stage or a part of it.
//!
//! The parts of a stage that a micro-batch visits one after the other share its slot: the embedding keeps its tokens
//! there, the blocks their activations; `dx` passes between them, as the embedding's output, the head's input and
//! gradient, and the gradient of the blocks.

use std::borrow::Cow;

use rekindle_compute::{Device, whole, whole_mut};
use rekindle_types::{LayerId, Part, Recompute};

use super::slots::Slot;
use super::state::LayerState;
use super::through::{At, finish_output, stream, through_blocks};
use super::{
    EngineError, GradientSums, Result, Stage, StageInput, StageOutput, block, head, head_weights, pass,
};

impl<D: Device> Stage<D> {
    /// Runs a micro-batch forward through the whole stage, see [`Stage::forward_part`].
    ///
    /// # Errors
    /// As [`Stage::forward_part`].
    pub fn forward(
        &mut self,
        micro_batch: u32,
        input: StageInput<'_, D::Float>,
        targets: Option<&[u32]>,
    ) -> Result<StageOutput<'_, D::Float>> {
        self.forward_part(micro_batch, Part::Whole, input, targets)
    }

    /// Runs a micro-batch forward through a part of the stage and keeps what its backward pass needs in slot
    /// `micro_batch`.
    ///
    /// With the head, `targets` (one per row) gives the loss, and the head's gradients are added at once (see the
    /// module).
    ///
    /// # Errors
    /// [`EngineError::Order`] when the slot has this part already, the stage hasn't, or targets are missing,
    /// [`EngineError::Input`] for a wrong length or kind, and a token outside the vocabulary by its position.
    pub fn forward_part(
        &mut self,
        micro_batch: u32,
        part: Part,
        input: StageInput<'_, D::Float>,
        targets: Option<&[u32]>,
    ) -> Result<StageOutput<'_, D::Float>> {
        self.check_part(micro_batch, part)?;
        let with_head = self.passes(part, LayerId::Head);
        if with_head && targets.is_none() {
            let what = "the stage with the head needs targets; use forward_only or logits to go without";
            return Err(EngineError::Order {
                slot: micro_batch,
                what,
            });
        }
        let mut slot = self
            .slots
            .open(&*self.device, &self.widths, (micro_batch, part))?;
        slot.blocks.append(&mut self.at_work);
        let result = self.forward_through(&mut slot, part, input, targets.filter(|_| with_head));
        self.take_back(&mut slot);
        if result.is_ok() {
            slot.parts.push(part);
        }
        self.slots.put(micro_batch, slot);
        match result? {
            Some(sum) => Ok(StageOutput::Loss { sum }),
            None => self.output(micro_batch, part),
        }
    }

    /// Whether a pass through `part` goes through `layer`.
    fn passes(&self, part: Part, layer: LayerId) -> bool {
        part.has(layer) && self.has(layer)
    }

    fn check_part(&self, slot: u32, part: Part) -> Result<()> {
        let what = "the stage has no such part; a micro-batch can visit what it is made of";
        match self.ids.iter().any(|layer| part.has(*layer)) {
            true => Ok(()),
            false => Err(EngineError::Order { slot, what }),
        }
    }

    /// The blocks of a pass through `part`.
    fn blocks_of(&self, part: Part) -> Vec<LayerId> {
        let mut blocks = self.blocks();
        blocks.retain(|layer| part.has(*layer));
        blocks
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
        part: Part,
        input: StageInput<'_, D::Float>,
        targets: Option<&[u32]>,
    ) -> Result<Option<f64>> {
        self.enter(slot, part, input, self.widths.rows)?;
        if let Some(targets) = targets {
            expect("targets", targets.len(), self.widths.rows)?;
            self.device.write_indices(&mut slot.targets, targets)?;
        }
        let blocks = self.blocks_of(part);
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
        part: Part,
        input: StageInput<'_, D::Float>,
        rows: usize,
    ) -> Result<()> {
        self.states.values().try_for_each(LayerState::complete)?;
        let wide = rows * self.widths.hidden;
        let Slot {
            tokens, inputs, dx, ..
        } = slot;
        let through_blocks = !self.blocks_of(part).is_empty();
        let x = inputs.first_mut().filter(|_| through_blocks).unwrap_or(dx);
        match (input, self.passes(part, LayerId::Embed)) {
            (StageInput::Tokens(ids), true) => {
                expect("tokens", ids.len(), rows)?;
                self.device.write_indices(tokens, ids)?;
                let table = &self.state(LayerId::Embed)?.weights;
                let table = rekindle_compute::part(table, 0..self.widths.vocab * self.widths.hidden);
                Ok(self
                    .device
                    .gather(self.widths.hidden, table, tokens, whole_mut(x, wide))?)
            }
            (StageInput::Activations(values), false) => {
                expect("activations", values.len(), wide)?;
                Ok(self.device.write(whole_mut(x, wide), values)?)
            }
            (StageInput::Tokens(ids), false) => Err(EngineError::Input {
                what: "tokens, without the embedding: give activations",
                have: ids.len(),
                want: 0,
            }),
            (StageInput::Activations(values), true) => Err(EngineError::Input {
                what: "activations, for the embedding: give tokens",
                have: values.len(),
                want: 0,
            }),
        }
    }

    fn output(&self, micro_batch: u32, part: Part) -> Result<StageOutput<'_, D::Float>> {
        let wide = self.widths.rows * self.widths.hidden;
        let source = match self.slots.flying(micro_batch) {
            Some(slot) if self.blocks_of(part).is_empty() => &slot.dx,
            _ => &self.scratch.delta,
        };
        Ok(StageOutput::Activations(self.device.read(whole(source, wide))?))
    }

    /// Runs a micro-batch backward through the whole stage, see [`Stage::backward_part`].
    ///
    /// # Errors
    /// As [`Stage::backward_part`].
    pub fn backward(
        &mut self,
        micro_batch: u32,
        grad_output: Option<&[D::Float]>,
        layer_done: &mut dyn FnMut(&mut GradientSums<D>, LayerId),
    ) -> Result<Option<Cow<'_, [D::Float]>>> {
        self.backward_part(micro_batch, Part::Whole, grad_output, layer_done)
    }

    /// Runs a micro-batch backward through a part of the stage; with the last part its slot is free. `grad_output` is
    /// the gradient of the part's output (`[rows, hidden]`, None with the head). `layer_done` is called for each of
    /// the part's layers, last first, as soon as its sums hold this micro-batch; a mirrored embedding's are complete
    /// when the head is reported. Returns the gradient of the input, None with the embedding.
    ///
    /// # Errors
    /// [`EngineError::Order`] without a forward pass, [`EngineError::Input`] for a wrong length.
    pub fn backward_part(
        &mut self,
        micro_batch: u32,
        part: Part,
        grad_output: Option<&[D::Float]>,
        layer_done: &mut dyn FnMut(&mut GradientSums<D>, LayerId),
    ) -> Result<Option<Cow<'_, [D::Float]>>> {
        let wide = self.widths.rows * self.widths.hidden;
        let given = grad_output.map_or(0, <[D::Float]>::len);
        expect(
            "gradient of the output",
            given,
            if self.passes(part, LayerId::Head) { 0 } else { wide },
        )?;
        let with_embed = self.passes(part, LayerId::Embed);
        let mut slot = self.slots.take(micro_batch, part)?;
        slot.blocks.append(&mut self.at_work);
        let done = self.backward_through(&mut slot, part, grad_output, layer_done);
        self.take_back(&mut slot);
        let slot = self.slots.put(micro_batch, slot);
        done?;
        match slot {
            Some(slot) if !with_embed => Ok(Some(self.device.read(whole(&slot.dx, wide))?)),
            _ => Ok(None),
        }
    }

    fn backward_through(
        &mut self,
        slot: &mut Slot<D>,
        part: Part,
        grad_output: Option<&[D::Float]>,
        layer_done: &mut dyn FnMut(&mut GradientSums<D>, LayerId),
    ) -> Result<()> {
        let wide = self.widths.rows * self.widths.hidden;
        if let Some(values) = grad_output {
            self.device.write(whole_mut(&mut slot.dx, wide), values)?;
        }
        if self.passes(part, LayerId::Head) {
            layer_done(&mut self.gradients, LayerId::Head);
        }
        let blocks = self.blocks_of(part);
        let shape = (self.spec.micro_batch as usize, self.spec.seq_len as usize);
        let pass = pass(&*self.device, &self.widths, &self.rope, &self.spec, shape);
        let Slot {
            inputs,
            blocks: kept,
            dx,
            ..
        } = &mut *slot;
        let (again, count) = (self.spec.recompute == Recompute::Block, kept.len().max(1));
        for (n, (layer, x)) in blocks.into_iter().zip(inputs).enumerate().rev() {
            let state = self.states.get(&layer).ok_or(EngineError::Layer { layer })?;
            let kept = &mut kept[n % count];
            let scratch = &mut self.scratch;
            if again {
                block::enter(&pass, state, None, x, &mut kept.rstd_in, scratch)?;
                block::attend(&pass, state, x, kept, scratch)?;
            }
            block::backward(&pass, state, x, kept, dx, scratch, &mut self.gradients)?;
            layer_done(&mut self.gradients, layer);
        }
        if self.passes(part, LayerId::Embed) {
            let (device, sums) = self.gradients.sums(LayerId::Embed)?;
            device.accumulate_rows(sums, self.widths.hidden, &slot.tokens, whole(&slot.dx, wide))?;
            layer_done(&mut self.gradients, LayerId::Embed);
        }
        Ok(())
    }
}

pub(super) fn expect(what: &'static str, have: usize, want: usize) -> Result<()> {
    if have == want {
        Ok(())
    } else {
        Err(EngineError::Input { what, have, want })
    }
}
