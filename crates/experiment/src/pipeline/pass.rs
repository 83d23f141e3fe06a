//! Micro-batches through the pipeline, in the usual order or with the ends swapped.

use rekindle_model::{ExactSum, StageInput, StageOutput};

use crate::error::{ExperimentError, Result};
use rekindle_plan::average::visiting_order;

use super::Pipeline;

/// Tokens of a micro-batch, sequence by sequence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MicroBatch {
    /// What goes in.
    pub inputs: Vec<u32>,
    /// What should come out.
    pub targets: Vec<u32>,
}

impl Pipeline {
    /// Forward and backward of micro-batches, one after another; odd ones visit the ends in the other order where
    /// `swap` is set. Returns the loss summed over tokens; none when it isn't finite.
    ///
    /// # Errors
    /// When an engine refuses, or there are too few stages to swap.
    pub fn forward_backward(&mut self, batch: &[MicroBatch], swap: bool) -> Result<Option<ExactSum>> {
        let mut loss = Some(ExactSum::default());
        for (m, micro_batch) in batch.iter().enumerate() {
            let order = self.order(swap && m % 2 == 1)?;
            let sum = self.forward(&order, m as u32, micro_batch)?;
            self.backward(&order, m as u32)?;
            loss = loss.zip(ExactSum::of_loss(sum)).and_then(|(a, b)| a.add(b));
        }
        Ok(loss)
    }

    /// Members in the order a micro-batch visits them.
    fn order(&self, swapped: bool) -> Result<Vec<usize>> {
        let stages = self.shape.stages as usize;
        let blocks = visiting_order(stages, swapped)?;
        Ok(std::iter::once(0)
            .chain(blocks.into_iter().map(|b| b + 1))
            .chain([stages + 1])
            .collect())
    }

    fn forward(&mut self, order: &[usize], slot: u32, batch: &MicroBatch) -> Result<f64> {
        let mut activations: Option<Vec<f32>> = None;
        for &index in order {
            let input = match &activations {
                None => StageInput::Tokens(&batch.inputs),
                Some(values) => StageInput::Activations(values),
            };
            let engine = &mut self.members[index].engine;
            match engine.forward(slot, input, Some(&batch.targets))? {
                StageOutput::Activations(values) => activations = Some(values.into_owned()),
                StageOutput::Loss { sum } => return Ok(sum),
            }
        }
        Err(no_loss())
    }

    fn backward(&mut self, order: &[usize], slot: u32) -> Result<()> {
        let mut gradient: Option<Vec<f32>> = None;
        for &index in order.iter().rev() {
            let engine = &mut self.members[index].engine;
            let next = engine.backward(slot, gradient.as_deref(), &mut |_, _| {})?;
            gradient = next.map(std::borrow::Cow::into_owned);
        }
        Ok(())
    }

    /// The mean loss per token of micro-batches in the usual order; touches no gradient. Infinite when it isn't a
    /// number.
    ///
    /// # Errors
    /// When an engine refuses.
    pub fn evaluate(&mut self, batch: &[MicroBatch]) -> Result<f64> {
        let order = self.order(false)?;
        let (mut sum, mut tokens) = (Some(ExactSum::default()), 0);
        for micro_batch in batch {
            let loss = ExactSum::of_loss(self.forward_only(&order, micro_batch)?);
            sum = sum.zip(loss).and_then(|(a, b)| a.add(b));
            tokens += micro_batch.targets.len() as u64;
        }
        Ok(sum.map_or(f64::INFINITY, |s| s.mean_loss(tokens)))
    }

    fn forward_only(&mut self, order: &[usize], batch: &MicroBatch) -> Result<f64> {
        let mut activations: Option<Vec<f32>> = None;
        for &index in order {
            let input = match &activations {
                None => StageInput::Tokens(&batch.inputs),
                Some(values) => StageInput::Activations(values),
            };
            let engine = &mut self.members[index].engine;
            match engine.forward_only(input, Some(&batch.targets))? {
                StageOutput::Activations(values) => activations = Some(values.into_owned()),
                StageOutput::Loss { sum } => return Ok(sum),
            }
        }
        Err(no_loss())
    }
}

/// The head is always last in an order, so this can't be reached; an error is still better than a panic.
fn no_loss() -> ExperimentError {
    ExperimentError::Engine(rekindle_model::EngineError::Spec {
        what: "the pipeline ended without a head".to_owned(),
    })
}
