//! What a loss-aware recovery chooses from.
//!
//! Copies of the neighbours, blends in several proportions, the blend by gradient norms, and a stage that passes its input through: the even
//! blend with both output projections 0, so that its blocks add nothing at first but can learn.

use crate::error::Result;
use crate::pipeline::{Pipeline, Place, StageState};
use rekindle_plan::average::{Mix, Source};
use rekindle_types::spec::Moments;

use super::mixing::mixed_state;

/// Shares of the first neighbour that are tried.
const SHARES: [f64; 3] = [0.25, 0.5, 0.75];
/// The matrices that write to the residual stream.
const OUTPUTS: [&str; 2] = ["self_attn.o_proj.weight", "mlp.down_proj.weight"];

/// A state that could stand in.
pub struct Candidate {
    /// What it is, where the mix doesn't say it.
    pub bypass: bool,
    /// What it is made of.
    pub mix: Mix,
    /// The state.
    pub state: StageState,
}

/// All candidates for block stage `stage` with sources `source`; `weighted` is the blend by gradient norms.
///
/// # Errors
/// When a source is lost.
pub fn all(
    pipeline: &Pipeline,
    stage: usize,
    source: Source,
    weighted: &Mix,
    moments: Moments,
) -> Result<Vec<Candidate>> {
    let mut mixes = match source {
        Source::Copy(from) => vec![Mix::copy(from)],
        Source::Blend(left, right) => [Mix::copy(left), Mix::copy(right), weighted.clone()]
            .into_iter()
            .chain(SHARES.map(|share| Mix::of(left, right, share)))
            .collect(),
    };
    mixes.dedup();
    let mut candidates = mixes
        .into_iter()
        .map(|mix| {
            let state = mixed_state(pipeline, &mix, moments)?;
            let bypass = false;
            Ok(Candidate { bypass, mix, state })
        })
        .collect::<Result<Vec<_>>>()?;
    let even = match source {
        Source::Copy(from) => Mix::copy(from),
        Source::Blend(left, right) => Mix::of(left, right, 0.5),
    };
    candidates.push(bypass(pipeline, stage, even, moments)?);
    Ok(candidates)
}

fn bypass(pipeline: &Pipeline, stage: usize, mix: Mix, moments: Moments) -> Result<Candidate> {
    let mut state = mixed_state(pipeline, &mix, moments)?;
    let engine = &pipeline.member(Place::Blocks(stage as u32)).engine;
    for (id, layer) in engine.layers().into_iter().zip(&mut state.layers) {
        let layout = engine.spec().model.layout(id);
        for tensor in OUTPUTS.iter().filter_map(|name| layout.tensor(name)) {
            layer.weights[tensor.range()].fill(0.0);
        }
    }
    let bypass = true;
    Ok(Candidate { bypass, mix, state })
}
