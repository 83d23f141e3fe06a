//! Mean loss on held-out text, through the same pipeline, forward only.

use rekindle_model::{ExactSum, StageInput, StageOutput};
use rekindle_plan::micro_batches_of;
use rekindle_transport::{Tag, TagKind};

use super::TrainerError;
use super::batch::Batch;
use super::context::Context;
use super::report::sum_for;
use super::step::Trainer;

/// Tells evaluation's frames from those of the step's digest (index 0).
const FIRST_INDEX: u32 = 1;

/// Evaluates on the first sequences of the held-out text, the same ones every time (from the start again where the
/// text has fewer than `evaluation.sequences`). The keepers of lines return the mean loss, nats a token.
///
/// # Errors
/// [`TrainerError`] when a peer is lost, or the loss is not a finite number.
pub fn evaluate(trainer: &mut Trainer, step: u64) -> Result<Option<f64>, TrainerError> {
    let context = &trainer.context;
    let micro_batches = count(context);
    let own = micro_batches_of(context.rank.lane, context.plan.lanes, micro_batches);
    let sequences = u64::from(micro_batches) * u64::from(context.spec.training.micro_batch);
    let batch = match trainer.text.as_ref().and_then(|text| text.held_out.as_ref()) {
        Some(corpus) => {
            let samples = corpus.samples(context.spec.data.seq_len).max(1);
            let ids: Vec<u64> = (0..sequences).map(|id| id % samples).collect();
            Batch::of_samples(context, corpus, &ids, &own)?
        }
        None => Batch::default(),
    };
    let mut loss = ExactSum::default();
    for m in own {
        let tag = Tag::new(TagKind::Eval, step, m).with_part(1);
        let more = forward(trainer, &batch, m, tag)?;
        trainer.context.progress.pass();
        loss = loss.add(more).ok_or(TrainerError::NonFinite { step, count: 1 })?;
    }
    let context = &trainer.context;
    let (keepers, index) = (context.line_keepers(), (step, FIRST_INDEX));
    let sum = sum_for(&keepers, context, &trainer.transport, index, loss.0)?;
    Ok(sum.map(|sum| ExactSum(sum).mean_loss(sequences * u64::from(context.spec.data.seq_len))))
}

/// Micro-batches an evaluation takes: `evaluation.sequences` rounded up, or one global batch.
fn count(context: &Context) -> u32 {
    match context.spec.evaluation.sequences {
        0 => context.spec.micro_batches(),
        sequences => sequences.div_ceil(context.spec.training.micro_batch),
    }
}

/// Takes micro-batch `m` through this rank's stage of its lane, forward only, in frames of this tag. The last stage
/// returns the loss summed over tokens, others 0.
///
/// # Errors
/// [`TrainerError`] when a peer is lost; [`TrainerError::NonFinite`] when the loss is not a finite number.
pub fn forward(trainer: &mut Trainer, batch: &Batch, m: u32, tag: Tag) -> Result<ExactSum, TrainerError> {
    let Trainer {
        context,
        transport,
        engine,
        ..
    } = trainer;
    let targets = if context.is_last_stage() {
        Some(batch.targets(m)?)
    } else {
        None
    };
    let received = match context.previous() {
        Some(from) => Some(transport.recv(from, tag, context.deadline())?),
        None => None,
    };
    let input = match &received {
        Some(frame) => StageInput::Activations(frame.as_slice::<f32>()?),
        None => StageInput::Tokens(batch.inputs(m)?),
    };
    match (engine.forward_only(input, targets)?, context.next()) {
        (StageOutput::Activations(values), Some(next)) => {
            transport.send_slice(next, tag, &values, context.deadline())?;
            Ok(ExactSum::default())
        }
        (StageOutput::Activations(_), None) => Err(TrainerError::Protocol {
            what: "the last stage gave activations instead of a loss".to_owned(),
        }),
        (StageOutput::Loss { sum }, _) => {
            let step = tag.step;
            ExactSum::of_loss(sum).ok_or(TrainerError::NonFinite { step, count: 1 })
        }
    }
}
