//! The forwards and backwards of one step on one rank: 1F1B against the transport.
//!
//! In: the step's tokens (at the ends of the pipeline), the peers' frames. Out: accumulated gradients in the engine, the
//! loss of this lane on its last stage, final gradients in the reduction.
//!
//! Frames arrive in the background while this thread computes; it waits only for what it needs next.

use std::ops::Range;

use rekindle_compute::AnyDevice;
use rekindle_model::{ExactSum, GradientSums, StageInput, StageOutput};
use rekindle_plan::{Op, program};
use rekindle_transport::{Frame, Tag, TagKind};
use rekindle_types::{LayerId, RankId};

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

impl Pipeline<'_> {
    /// Runs all forwards and backwards of this rank.
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost or late, or something doesn't fit the model.
    pub fn run(&self, engine: &mut Engine, to: Sink<'_, '_>) -> Result<PipelineResult, TrainerError> {
        let micro_batches = self.context.micro_batches();
        let last = micro_batches.last().copied();
        let mut result = PipelineResult::default();
        for op in program(
            self.context.rank.stage,
            self.context.plan.stage_count(),
            &micro_batches,
        ) {
            match op {
                Op::Forward(m) => self.forward(engine, m, &mut result)?,
                Op::Backward(m) => self.backward(engine, m, (Some(m) == last).then_some(&mut *to))?,
            }
            self.context.progress.pass();
        }
        Ok(result)
    }

    fn forward(&self, engine: &mut Engine, m: u32, result: &mut PipelineResult) -> Result<(), TrainerError> {
        let targets = if self.context.is_last_stage() {
            Some(self.batch.targets(m)?)
        } else {
            None
        };
        let received = self.receive(self.context.previous(), TagKind::Activation, m)?;
        let input = match &received {
            Some(frame) => StageInput::Activations(frame.as_slice::<f32>()?),
            None => StageInput::Tokens(self.batch.inputs(m)?),
        };
        match engine.forward(m, input, targets)? {
            StageOutput::Activations(values) => {
                self.send(self.context.next(), TagKind::Activation, m, &values)
            }
            StageOutput::Loss { sum } => {
                match ExactSum::of_loss(sum).and_then(|loss| result.loss.add(loss)) {
                    Some(loss) => result.loss = loss,
                    None => result.non_finite = true,
                }
                Ok(())
            }
        }
    }

    /// `to`: with the last micro-batch.
    fn backward(
        &self,
        engine: &mut Engine,
        m: u32,
        mut to: Option<Sink<'_, '_>>,
    ) -> Result<(), TrainerError> {
        let received = self.receive(self.context.next(), TagKind::ActivationGrad, m)?;
        let gradient = match &received {
            Some(frame) => Some(frame.as_slice::<f32>()?),
            None => None,
        };
        let mut outcome = Ok(());
        let mut layer_done = |sums: &mut GradientSums<AnyDevice>, layer: LayerId| {
            if let (Some(to), Ok(())) = (&mut to, &outcome) {
                outcome = self.layer_is_final(sums, layer, to);
            }
        };
        let gradient = engine.backward(m, gradient, &mut layer_done)?;
        outcome?;
        match gradient {
            Some(values) => self.send(self.context.previous(), TagKind::ActivationGrad, m, &values),
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
