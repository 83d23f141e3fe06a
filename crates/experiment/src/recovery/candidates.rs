//! What a loss-aware recovery chooses from ([`rekindle_plan::average::candidates`]), as states.

use crate::error::Result;
use crate::pipeline::{Pipeline, Place, StageState};
use rekindle_plan::average::{Candidate, outputs};
use rekindle_types::spec::Moments;

use super::mixing::mixed_state;

/// The candidate as the state of block stage `stage`.
///
/// # Errors
/// When a source is lost.
pub fn state(
    pipeline: &Pipeline,
    stage: usize,
    candidate: &Candidate,
    moments: Moments,
) -> Result<StageState> {
    let mut state = mixed_state(pipeline, &candidate.mix, moments)?;
    let engine = &pipeline.member(Place::Blocks(stage as u32)).engine;
    for (id, layer) in engine.layers().into_iter().zip(&mut state.layers) {
        let outputs = outputs(&engine.spec().model.layout(id)).into_iter();
        outputs
            .filter(|_| candidate.bypass)
            .for_each(|range| layer.weights[range].fill(0.0));
    }
    Ok(state)
}
