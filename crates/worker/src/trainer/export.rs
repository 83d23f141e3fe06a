//! After the last step: the trained model as a Hugging Face folder, `<output>/hf`.
//!
//! Each stage of lane 0 writes its own layers; rank 0 completes the folder when all have said that theirs are on disk.

use std::path::PathBuf;

use rekindle_checkpoint::{finish, write_shard};
use rekindle_model::StateKind;
use rekindle_types::{LayerId, RankId};

use super::TrainerError;
use super::context::Context;
use super::report::sum_for;
use super::step::Trainer;

/// Tells this exchange from the digest (0) and the evaluation (1) of the last step.
const INDEX: u32 = 2;

/// Writes this rank's part, and on rank 0 waits for the others' and completes the folder.
///
/// # Errors
/// [`TrainerError`] when a part can't be written or a rank is lost before it wrote its part.
pub fn export(trainer: &Trainer) -> Result<(), TrainerError> {
    let context = &trainer.context;
    let folder = folder(context);
    let stages = context.plan.stage_count();
    if context.rank.lane == 0 {
        let layers = weights(trainer)?;
        let parts: Vec<(LayerId, &[f32])> = layers
            .iter()
            .map(|(id, values)| (*id, values.as_slice()))
            .collect();
        write_shard(&folder, context.rank.stage, stages, &parts, &context.spec.model)?;
    }
    let last = context.spec.training.steps;
    if sum_for(&[RankId(0)], context, &trainer.transport, (last, INDEX), 1)?.is_some() {
        finish(&folder, stages, &context.spec.model, &context.spec.data.tokenizer)?;
        tracing::info!(folder = %folder.display(), "exported the model");
    }
    Ok(())
}

fn folder(context: &Context) -> PathBuf {
    context.spec.job.folder().join("hf")
}

fn weights(trainer: &Trainer) -> Result<Vec<(LayerId, Vec<f32>)>, TrainerError> {
    let read = |layer| {
        let range = 0..trainer.context.numel(layer);
        Ok((layer, trainer.engine.export(layer, StateKind::Weights, range)?))
    };
    trainer.engine.layers().into_iter().map(read).collect()
}
