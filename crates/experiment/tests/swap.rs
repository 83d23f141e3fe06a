//! T6: swapped micro-batches compute what a model with its ends swapped computes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod support;

use rekindle_compute::Cpu;
use rekindle_experiment::{ExperimentError, MicroBatch, Pipeline, Place};
use rekindle_model::{AdamW, Stage, StageInput, StageOutput, StageSpec, StateKind};
use rekindle_plan::average::{BoostRule, visiting_order};
use rekindle_types::{LayerId, Numerics, Recompute};
use support::{STAGES, config, text};

const SEED: u64 = 1;

/// One engine with all layers, whose block `n` is block `order[n]` of the pipeline.
fn whole(order: &[usize]) -> Stage<Cpu<f32>> {
    let shape = config().shape;
    let model = shape.model();
    let spec = StageSpec {
        layers: 0..model.num_hidden_layers + 2,
        micro_batch: shape.micro_batch,
        seq_len: shape.seq_len,
        numerics: Numerics::Exact,
        recompute: Recompute::None,
        tokens_per_step: shape.tokens(),
        lane: 0,
        lanes: 1,
        optimizer: AdamW {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
        },
        model,
    };
    let device = || std::sync::Arc::new(Cpu::<f32>::new(1).unwrap());
    let mut plain = Stage::new(device(), spec.clone()).unwrap();
    plain.init_weights(SEED).unwrap();
    let mut stage = Stage::new(device(), spec).unwrap();
    stage.init_weights(SEED).unwrap();
    for (n, &from) in order.iter().enumerate() {
        let (to, from) = (LayerId::Block(n as u32), LayerId::Block(from as u32));
        let numel = plain.spec().model.layout(from).numel();
        let weights = plain.export(from, StateKind::Weights, 0..numel).unwrap();
        stage.import(to, StateKind::Weights, 0, &weights).unwrap();
    }
    stage
}

fn run(stage: &mut Stage<Cpu<f32>>, batch: &MicroBatch) -> f64 {
    let StageOutput::Loss { sum } = stage
        .forward(0, StageInput::Tokens(&batch.inputs), Some(&batch.targets))
        .unwrap()
    else {
        panic!("no loss");
    };
    stage.backward(0, None, &mut |_, _| {}).unwrap();
    sum
}

fn sums(stage: &Stage<Cpu<f32>>, layer: LayerId) -> Vec<i64> {
    let numel = stage.spec().model.layout(layer).numel();
    let bytes = stage.gradient_bytes(layer, 0..numel).unwrap();
    bytes
        .chunks_exact(8)
        .map(|b| i64::from_ne_bytes(b.try_into().unwrap()))
        .collect()
}

#[test]
fn t6_gradients_of_swapped_micro_batches_are_those_of_the_swapped_model() {
    let config = config();
    let batch = text(&config).batch(SEED, 1, &config.shape).unwrap();
    let mut pipeline = Pipeline::new(&config.shape, SEED, 1, BoostRule::FLAT).unwrap();
    let loss = pipeline.forward_backward(&batch[..2], true).unwrap().unwrap();

    let order = visiting_order(STAGES as usize, true).unwrap();
    let (mut usual, mut swapped) = (whole(&[0, 1, 2, 3, 4, 5]), whole(&order));
    let want = run(&mut usual, &batch[0]) + run(&mut swapped, &batch[1]);
    assert!(
        (loss.mean_loss(1) - want).abs() < 1e-9 * want,
        "{} {want}",
        loss.mean_loss(1)
    );

    for place in Place::all(STAGES) {
        let engine = &pipeline.member(place).engine;
        let (layer, in_swapped) = match place {
            Place::Embed => (LayerId::Embed, LayerId::Embed),
            Place::Head => (LayerId::Head, LayerId::Head),
            Place::Blocks(n) => {
                let at = order.iter().position(|&b| b == n as usize).unwrap();
                (LayerId::Block(n), LayerId::Block(at as u32))
            }
        };
        let both = sums(&usual, layer).into_iter().zip(sums(&swapped, in_swapped));
        let want: Vec<i64> = both.map(|(a, b)| a + b).collect();
        assert!(want.iter().any(|&g| g != 0), "{place} has no gradient");
        assert_eq!(sums(engine, layer), want, "{place}");
    }
}

/// EX-5: what is lost is gone, and noticed by whoever asks for it.
#[test]
fn a_lost_stage_cannot_be_read() {
    let config = config();
    let mut pipeline = Pipeline::new(&config.shape, SEED, 1, BoostRule::FLAT).unwrap();
    let kept = pipeline.state(Place::Blocks(2)).unwrap();
    let digest = pipeline.digest().unwrap();
    pipeline.lose(Place::Blocks(2)).unwrap();
    let dead = |r: Result<(), ExperimentError>| matches!(r, Err(ExperimentError::Dead { .. }));
    assert!(dead(pipeline.state(Place::Blocks(2)).map(drop)));
    assert!(dead(pipeline.digest().map(drop)));
    let batch = text(&config).batch(SEED, 1, &config.shape).unwrap();
    assert_eq!(pipeline.evaluate(&batch).unwrap(), f64::INFINITY);
    pipeline.put(Place::Blocks(2), &kept).unwrap();
    assert_eq!(pipeline.digest().unwrap(), digest);
}
