//! State from a checkpoint: this rank's ranges of it, whoever wrote them in whatever layout.

use rekindle_checkpoint::Options;
use rekindle_checkpoint::{Blocking, Span, StateError, StoreErrorKind};
use rekindle_types::{LayerId, StartPoint, StateKind};

use super::context::Context;
use super::{Engine, TrainerError};

/// Fills the engine with the state of `start`. Nothing that isn't what was written gets in (CK-13).
///
/// # Errors
/// [`TrainerError::Checkpoint`] naming what is missing or damaged.
pub fn load(engine: &mut Engine, context: &Context, start: &StartPoint) -> Result<(), TrainerError> {
    let checkpoint = Blocking::checkpoint_at(&start.url)?;
    let mut spans = checkpoint.needed(&context.plan, context.id());
    if engine.holds_mirror() {
        let numel = context.numel(LayerId::Embed) as u64;
        spans.push(Span::new(LayerId::Embed, StateKind::Weights, 0..numel));
    }
    let mut wrong = None;
    let report = checkpoint.read_ranges(&spans, &Options::default(), |span, first, values| {
        let first = first as usize;
        let range = first..first + values.len();
        let bytes = bytemuck::cast_slice(values);
        if let Err(error) = engine.set_state_bytes(span.layer, span.kind, range, bytes) {
            wrong.get_or_insert(error);
        }
    })?;
    if let Some(error) = wrong {
        return Err(error.into());
    }
    tracing::info!(
        step = start.step,
        url = start.url,
        bytes = report.bytes_read,
        amplification = report.amplification(),
        seconds = report.seconds,
        "loaded"
    );
    Ok(())
}

/// Whether a checkpoint is itself at fault, so that an older one may do better.
#[must_use]
pub fn is_damaged(error: &StateError) -> bool {
    match error {
        StateError::Format { .. } | StateError::Incomplete { .. } | StateError::Damaged(_) => true,
        StateError::Store(error) => error.kind() == StoreErrorKind::NotFound,
        _ => false,
    }
}
