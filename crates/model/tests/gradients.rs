//! Every layer's backward against finite differences, in float64.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use rekindle_model::{StageInput, StageOutput};
use rekindle_types::{LayerId, Numerics};
use support::{Cluster, Shape, samples, small_model};

/// The mean loss of all samples, in one stage.
fn loss(cluster: &mut Cluster<f64>, batch: &[Vec<u32>]) -> f64 {
    let size = cluster.shape.micro_batch as usize;
    let sums = batch.chunks(size).map(|samples| {
        let inputs: Vec<u32> = samples
            .iter()
            .flat_map(|s| s[..s.len() - 1].iter().copied())
            .collect();
        let targets: Vec<u32> = samples.iter().flat_map(|s| s[1..].iter().copied()).collect();
        match cluster.stages[0][0]
            .forward_only(StageInput::Tokens(&inputs), Some(&targets))
            .unwrap()
        {
            StageOutput::Loss { sum } => sum,
            StageOutput::Activations(_) => panic!("the head is here"),
        }
    });
    sums.sum::<f64>() / cluster.shape.tokens_per_step() as f64
}

/// Sets one weight.
fn poke(cluster: &mut Cluster<f64>, layer: LayerId, at: usize, value: f64) {
    cluster.stages[0][0]
        .set_weight_bytes(layer, at..at + 1, &value.to_ne_bytes())
        .unwrap();
}

fn peek(cluster: &Cluster<f64>, layer: LayerId, at: usize) -> f64 {
    let bytes = cluster.stages[0][0]
        .weight_bytes(layer, at..at + 1)
        .unwrap()
        .into_owned();
    f64::from_ne_bytes(bytes.try_into().unwrap())
}

fn check(tied: bool, numerics: Numerics) {
    let shape = Shape {
        numerics,
        micro_batches: 2,
        seq_len: 9,
        ..Shape::single(small_model(tied))
    };
    let batch = samples(3, 4, 10, shape.model.vocab_size);
    let mut cluster = Cluster::<f64>::new(shape);
    cluster.forward_backward(&batch);
    let mut checked = 0;
    for layer in cluster.shape.model.layers().collect::<Vec<_>>() {
        let layout = cluster.shape.model.layout(layer);
        let gradients = cluster.stages[0][0]
            .gradients()
            .mean(layer, 0..layout.numel())
            .unwrap();
        let mut probe = Cluster::<f64>::new(cluster.shape.clone());
        for spec in &layout.tensors {
            // Every element of a norm; of a matrix about twenty, spread over it, a token of the batch among them.
            let step = if spec.is_matrix() { spec.numel() / 20 } else { 1 };
            for at in spec.range().step_by(step) {
                let (value, eps) = (peek(&probe, layer, at), 1e-4);
                let mut at_shift = |shift: f64| {
                    poke(&mut probe, layer, at, value + shift);
                    loss(&mut probe, &batch)
                };
                // Fourth-order central difference.
                let near = at_shift(eps) - at_shift(-eps);
                let far = at_shift(2.0 * eps) - at_shift(-2.0 * eps);
                let slope = (8.0 * near - far) / (12.0 * eps);
                poke(&mut probe, layer, at, value);
                let error = (slope - gradients[at]).abs();
                assert!(
                    error < 1e-9 + 1e-6 * slope.abs(),
                    "{}[{at}]: {} instead of {slope}",
                    spec.name,
                    gradients[at]
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 400);
}

#[test]
fn tied_embeddings() {
    check(true, Numerics::Fast);
}

#[test]
fn separate_embeddings() {
    check(false, Numerics::Fast);
}

/// Fixed point has 43 fractional bits: the same gradients to about 1e-12.
#[test]
fn fixed_point_sums() {
    check(true, Numerics::Exact);
}
