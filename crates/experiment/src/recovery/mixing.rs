//! A stage's state as a mix of other stages' states: [`rekindle_plan::average`] applied to every layer.

use rekindle_plan::average::{Mix, MomentSlices, Result as AverageResult, blend, starting_moments};
use rekindle_types::spec::Moments;

use crate::error::Result;
use crate::pipeline::{LayerState, Pipeline, Place, StageState};

/// A source and its share.
type Source = (StageState, f64);

/// The mix of block stages of one shape. Block `j` of the result is mixed from blocks `j` of the sources.
///
/// # Errors
/// When a source is lost or holds a number that isn't finite.
pub fn mixed_state(pipeline: &Pipeline, mix: &Mix, moments: Moments) -> Result<StageState> {
    let sources = mix
        .parts()
        .iter()
        .map(|p| Ok((pipeline.state(Place::Blocks(p.stage as u32))?, p.share)))
        .collect::<Result<Vec<Source>>>()?;
    let layers = sources.first().map_or(0, |(state, _)| state.layers.len());
    let mut mixed = StageState {
        layers: Vec::with_capacity(layers),
        adam_steps: 0,
    };
    for layer in 0..layers {
        let (state, steps) = mixed_layer(&sources, layer, moments)?;
        mixed.layers.push(state);
        mixed.adam_steps = steps;
    }
    Ok(mixed)
}

fn mixed_layer(sources: &[Source], layer: usize, moments: Moments) -> AverageResult<(LayerState, u64)> {
    let of = sources
        .iter()
        .map(|(state, share)| (&state.layers[layer], state.adam_steps, *share));
    let weights: Vec<_> = of
        .clone()
        .map(|(l, _, share)| (l.weights.as_slice(), share))
        .collect();
    let slices: Vec<_> = of
        .map(|(l, steps, share)| MomentSlices {
            exp_avg: &l.exp_avg,
            exp_avg_sq: &l.exp_avg_sq,
            steps,
            share,
        })
        .collect();
    let weights = blend(&weights)?;
    let start = starting_moments(moments, weights.len(), &slices)?;
    let state = LayerState {
        weights,
        exp_avg: start.exp_avg,
        exp_avg_sq: start.exp_avg_sq,
    };
    Ok((state, start.steps))
}
