//! Passes that keep nothing: evaluation and logits.

use rekindle_compute::{Device, Float, whole};
use rekindle_types::{LayerId, Part};

use super::slots::Slot;
use super::through::{At, finish_output, stream, through_blocks};
use super::train::expect;
use super::{EngineError, Result, Stage, StageInput, StageOutput, head, head_weights, pass};

impl<D: Device> Stage<D> {
    /// As [`Stage::forward`], without keeping activations or touching gradients: with the head and targets the summed
    /// loss, without the head the activations for the next stage.
    ///
    /// # Errors
    /// As [`Stage::forward`].
    pub fn forward_only(
        &mut self,
        input: StageInput<'_, D::Float>,
        targets: Option<&[u32]>,
    ) -> Result<StageOutput<'_, D::Float>> {
        let shape = (self.spec.micro_batch as usize, self.spec.seq_len as usize);
        let mut slot = self.open_spare()?;
        let result = self.pass_only(&mut slot, input, targets, shape);
        let empty = slot.inputs.is_empty();
        let slot = self.spare.insert(slot);
        match result? {
            Some(sum) => Ok(StageOutput::Loss { sum }),
            None => {
                let source = if empty { &slot.dx } else { &self.scratch.delta };
                Ok(StageOutput::Activations(
                    self.device
                        .read(whole(source, self.widths.rows * self.widths.hidden))?,
                ))
            }
        }
    }

    /// Logits of the token that follows `tokens` (1 to `seq_len` of them), on a stage that holds the whole model.
    ///
    /// # Errors
    /// [`EngineError::Layer`] when the stage isn't the whole model, [`EngineError::Input`] for a wrong length, a
    /// token outside the vocabulary by its position.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        for layer in [LayerId::Embed, LayerId::Head] {
            self.state(layer)?;
        }
        if tokens.is_empty() || tokens.len() > self.spec.seq_len as usize {
            return Err(EngineError::Input {
                what: "tokens of a context",
                have: tokens.len(),
                want: self.spec.seq_len as usize,
            });
        }
        let mut slot = self.open_spare()?;
        let result = self.last_logits(&mut slot, tokens);
        self.spare = Some(slot);
        result
    }

    fn open_spare(&mut self) -> Result<Slot<D>> {
        let any = self.blocks().len().min(1);
        match self.spare.take() {
            Some(slot) => Ok(slot),
            None => Slot::new(&*self.device, &self.widths, any, any),
        }
    }

    fn pass_only(
        &mut self,
        slot: &mut Slot<D>,
        input: StageInput<'_, D::Float>,
        targets: Option<&[u32]>,
        shape: (usize, usize),
    ) -> Result<Option<f64>> {
        let rows = shape.0 * shape.1;
        let at = self.run_blocks(slot, input, shape)?;
        let pass = pass(&*self.device, &self.widths, &self.rope, &self.spec, shape);
        if !self.has(LayerId::Head) {
            finish_output(&pass, at, slot, &mut self.scratch)?;
            return Ok(None);
        }
        let targets = targets.ok_or(EngineError::Input {
            what: "targets",
            have: 0,
            want: rows,
        })?;
        expect("targets", targets.len(), rows)?;
        self.device.write_indices(&mut slot.targets, targets)?;
        let weights = head_weights(&self.states, self.spec.model.tie_word_embeddings)?;
        head::norm(
            &pass,
            &weights,
            stream(at, slot),
            at != At::Input,
            &mut self.scratch,
        )?;
        head::loss(&pass, &weights, &slot.targets, &mut self.scratch).map(Some)
    }

    fn run_blocks(
        &mut self,
        slot: &mut Slot<D>,
        input: StageInput<'_, D::Float>,
        shape: (usize, usize),
    ) -> Result<At> {
        self.enter(slot, Part::Whole, input, shape.0 * shape.1)?;
        let blocks = self.blocks();
        let pass = pass(&*self.device, &self.widths, &self.rope, &self.spec, shape);
        let states: Vec<_> = blocks.iter().filter_map(|l| self.states.get(l)).collect();
        through_blocks(&pass, &states, slot, &mut self.scratch)
    }

    fn last_logits(&mut self, slot: &mut Slot<D>, tokens: &[u32]) -> Result<Vec<f32>> {
        let shape = (1, tokens.len());
        let at = self.run_blocks(slot, StageInput::Tokens(tokens), shape)?;
        let pass = pass(&*self.device, &self.widths, &self.rope, &self.spec, shape);
        let weights = head_weights(&self.states, self.spec.model.tie_word_embeddings)?;
        head::norm(
            &pass,
            &weights,
            stream(at, slot),
            at != At::Input,
            &mut self.scratch,
        )?;
        head::logits(
            &pass,
            &weights,
            &(tokens.len() - 1..tokens.len()),
            &mut self.scratch,
        )?;
        let logits = self.device.read(whole(&self.scratch.logits, self.widths.vocab))?;
        Ok(logits.iter().map(|v| v.f32()).collect())
    }
}
