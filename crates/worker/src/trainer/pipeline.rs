//! The forwards and backwards of one step on one rank: its program ([`Context::program`]) against the transport.
//! Swapped micro-batches visit a rank at an end of the pipeline twice, each time a part of its stage.
//!
//! In: the step's tokens (at the ends of the pipeline), the peers' frames. Out: accumulated gradients in the engine,
//! the loss of this lane on its last stage, final gradients in the reduction.
//!
//! Frames arrive in the background while this thread computes; it waits only for what it needs next.

use std::collections::BTreeMap;
use std::ops::Range;

use rekindle_compute::AnyDevice;
use rekindle_model::{ExactSum, GradientSums, StageInput, StageOutput};
use rekindle_plan::Op;
use rekindle_transport::{Frame, Tag, TagKind};
use rekindle_types::{LayerId, Part, RankId};

use super::batch::Batch;
use super::context::{Context, SharedTransport};
use super::reduction::Reduction;
use super::tied::Tied;
use super::{Engine, TrainerError};

/// What the pipeline leaves behind besides gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PipelineResult {
    /// Loss of this lane; 0 off the last stage.
    pub loss: ExactSum,
    /// Whether a loss was not a finite number.
    pub non_finite: bool,
}

/// One step's pipeline on one rank.
pub struct Pipeline<'a> {
    /// Where this rank stands.
    pub context: &'a Context,
    /// The way to its peers.
    pub transport: &'a SharedTransport,
    /// The step, 1-based.
    pub step: u64,
    /// The step's tokens.
    pub batch: &'a Batch,
}

/// What final gradients go to.
type Sink<'r, 'a> = &'r mut Reduction<'a>;

/// A micro-batch and the part of this rank's stage that it is at.
type Visit = (u32, Part);

impl Pipeline<'_> {
    /// Runs all forwards and backwards of this rank.
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost or late, or something doesn't fit the model.
    pub fn run(&self, engine: &mut Engine, to: Sink<'_, '_>) -> Result<PipelineResult, TrainerError> {
        let ops = self.context.program();
        let finals = self.finals(&ops);
        let mut result = PipelineResult::default();
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Forward(m, part) => self.forward(engine, (m, part), &mut result)?,
                Op::Backward(m, part) => {
                    let is_final = |layer: LayerId| finals.get(&layer) == Some(&n);
                    self.backward(engine, (m, part), to, &is_final)?;
                }
            }
            self.context.progress.pass();
        }
        Ok(result)
    }

    /// The operation after which each layer's gradient is final: the last backward through it.
    fn finals(&self, ops: &[Op]) -> BTreeMap<LayerId, usize> {
        let through = |op: &Op, layer| matches!(op, Op::Backward(_, part) if part.has(layer));
        let last = |layer| ops.iter().rposition(|op| through(op, layer));
        let layers = self.context.layers();
        layers.filter_map(|layer| Some((layer, last(layer)?))).collect()
    }

    fn forward(
        &self,
        engine: &mut Engine,
        (m, part): Visit,
        result: &mut PipelineResult,
    ) -> Result<(), TrainerError> {
        let [before, after] = self.context.beside(m, part);
        let targets = match after {
            None => Some(self.batch.targets(m)?),
            Some(_) => None,
        };
        let received = self.receive(before, TagKind::Activation, m)?;
        let input = match &received {
            Some(frame) => StageInput::Activations(frame.as_slice::<f32>()?),
            None => StageInput::Tokens(self.batch.inputs(m)?),
        };
        match engine.forward_part(m, part, input, targets)? {
            StageOutput::Activations(values) => self.send(after, TagKind::Activation, m, &values),
            StageOutput::Loss { sum } => {
                match ExactSum::of_loss(sum).and_then(|loss| result.loss.add(loss)) {
                    Some(loss) => result.loss = loss,
                    None => result.non_finite = true,
                }
                Ok(())
            }
        }
    }

    /// Layers of which `is_final` says that this is their last backward go to `to`.
    fn backward(
        &self,
        engine: &mut Engine,
        (m, part): Visit,
        to: Sink<'_, '_>,
        is_final: &dyn Fn(LayerId) -> bool,
    ) -> Result<(), TrainerError> {
        let [before, after] = self.context.beside(m, part);
        let received = self.receive(after, TagKind::ActivationGrad, m)?;
        let gradient = match &received {
            Some(frame) => Some(frame.as_slice::<f32>()?),
            None => None,
        };
        let mut outcome = Ok(());
        let mut layer_done = |sums: &mut GradientSums<AnyDevice>, layer: LayerId| {
            if is_final(layer) && outcome.is_ok() {
                outcome = self.layer_is_final(sums, layer, to);
            }
        };
        let gradient = engine.backward_part(m, part, gradient, &mut layer_done)?;
        outcome?;
        match gradient {
            Some(values) => self.send(before, TagKind::ActivationGrad, m, &values),
            None => Ok(()),
        }
    }

    /// Starts a finished layer's gradient on its way. The owner of a tied matrix waits with it for the mirror's part.
    fn layer_is_final(
        &self,
        sums: &mut GradientSums<AnyDevice>,
        layer: LayerId,
        to: Sink<'_, '_>,
    ) -> Result<(), TrainerError> {
        let (context, transport) = (self.context, self.transport);
        if layer == LayerId::Head {
            let mirror = |range: Range<usize>| Ok(sums.bytes(LayerId::Embed, range)?.into_owned());
            Tied { context, transport }.send_gradient(self.step, &mirror)?;
        }
        if layer == LayerId::Embed && context.tied_peer().is_some() {
            return Ok(());
        }
        to.is_final(sums, layer)
    }

    fn receive(&self, from: Option<RankId>, kind: TagKind, m: u32) -> Result<Option<Frame>, TrainerError> {
        let Some(from) = from else { return Ok(None) };
        Ok(Some(self.transport.recv(
            from,
            Tag::new(kind, self.step, m),
            self.context.deadline(),
        )?))
    }

    fn send(&self, to: Option<RankId>, kind: TagKind, m: u32, values: &[f32]) -> Result<(), TrainerError> {
        let Some(to) = to else { return Ok(()) };
        let tag = Tag::new(kind, self.step, m);
        Ok(self
            .transport
            .send_slice(to, tag, values, self.context.deadline())?)
    }
}
