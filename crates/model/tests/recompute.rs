//! Activation recomputation doesn't show in any bit, in any layout, and takes the memory it says.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use rekindle_model::{StateDigest, StateKind};
use rekindle_types::{LayerId, Numerics, Recompute};
use support::{Cluster, Shape, Step, samples, small_model};

const STEPS: usize = 3;

fn batches(shape: &Shape) -> Vec<Vec<Vec<u32>>> {
    let per_step = (shape.micro_batch * shape.micro_batches) as usize;
    let len = shape.seq_len as usize + 1;
    samples(23, per_step * STEPS, len, shape.model.vocab_size)
        .chunks(per_step)
        .map(<[_]>::to_vec)
        .collect()
}

fn train(shape: &Shape, recompute: Recompute) -> (Vec<Step>, StateDigest) {
    let mut cluster = Cluster::<f32>::new(Shape {
        recompute,
        ..shape.clone()
    });
    let steps = batches(shape).iter().map(|batch| cluster.step(batch)).collect();
    (steps, cluster.digest())
}

/// Shapes that differ in every number, among them blocks of one head, one token and one layer.
fn shapes() -> Vec<Shape> {
    let single = |tied, layers: u32, change: &dyn Fn(&mut Shape)| {
        let mut model = small_model(tied);
        model.num_hidden_layers = layers;
        let mut shape = Shape::single(model);
        change(&mut shape);
        shape
    };
    vec![
        single(true, 3, &|_| ()),
        single(false, 1, &|s| (s.micro_batch, s.micro_batches) = (1, 3)),
        single(true, 2, &|s| (s.seq_len, s.threads) = (1, 2)),
        single(false, 4, &|s| s.cuts = vec![0..1, 1..4, 4..6]),
        single(true, 3, &|s| (s.cuts, s.lanes) = (vec![0..2, 2..5], 2)),
        single(false, 2, &|s| {
            (s.cuts, s.lanes) = (vec![0..1, 1..2, 2..3, 3..4], 2)
        }),
        single(true, 3, &|s| (s.numerics, s.seq_len) = (Numerics::Fast, 33)),
    ]
}

#[test]
fn recomputation_does_not_show() {
    for (n, shape) in shapes().iter().enumerate() {
        let kept = train(shape, Recompute::None);
        assert!(kept.0.iter().all(|s| s.finite), "shape {n}: {kept:?}");
        assert_eq!(train(shape, Recompute::Block), kept, "shape {n}");
    }
}

/// Several micro-batches in flight share the buffers of the block at work; each must be run again from its own input.
#[test]
fn micro_batches_in_flight_do_not_meet() {
    let run = |recompute| {
        let shape = Shape {
            recompute,
            ..Shape::single(small_model(false))
        };
        let mut cluster = Cluster::<f32>::new(shape.clone());
        let all = batches(&shape);
        let stage = &mut cluster.stages[0][0];
        for (slot, batch) in all[0].chunks(2).enumerate() {
            let tokens = |from: usize| {
                let rows = batch.iter().flat_map(|s| &s[from..s.len() - 1 + from]);
                rows.copied().collect::<Vec<u32>>()
            };
            let input = rekindle_model::StageInput::Tokens(&tokens(0));
            stage.forward(slot as u32, input, Some(&tokens(1))).unwrap();
        }
        for slot in [2, 0, 3, 1] {
            stage.backward(slot, None, &mut |_, _| ()).unwrap();
        }
        let layers: Vec<_> = shape.model.layers().collect();
        let numel = |layer: LayerId| shape.model.layout(layer).numel();
        layers
            .iter()
            .map(|&l| stage.gradient_bytes(l, 0..numel(l)).unwrap().into_owned())
            .collect::<Vec<_>>()
    };
    assert!(run(Recompute::Block) == run(Recompute::None));
}

/// A pass that keeps nothing runs between a forward and its backward without touching what they share.
#[test]
fn evaluation_in_between_changes_nothing() {
    let shape = Shape {
        recompute: Recompute::Block,
        ..Shape::single(small_model(true))
    };
    let all = batches(&shape);
    let (mut plain, mut disturbed) = (
        Cluster::<f32>::new(shape.clone()),
        Cluster::<f32>::new(shape.clone()),
    );
    for batch in &all {
        let want = plain.step(batch);
        disturbed.stages[0][0].logits(&all[1][0][..7]).unwrap();
        assert_eq!(disturbed.step(batch), want);
    }
    let weights = |c: &Cluster<f32>| {
        let layer = LayerId::Block(1);
        let numel = shape.model.layout(layer).numel();
        c.stages[0][0]
            .export(layer, StateKind::Weights, 0..numel)
            .unwrap()
    };
    assert_eq!(weights(&plain), weights(&disturbed));
}

#[test]
fn only_inputs_of_blocks_are_kept() {
    let memory = |recompute, micro_batches| {
        let shape = Shape {
            recompute,
            micro_batches,
            ..Shape::single(small_model(false))
        };
        let mut cluster = Cluster::<f32>::new(shape.clone());
        let stage = &mut cluster.stages[0][0];
        let tokens = vec![1u32; 26];
        for slot in 0..micro_batches {
            let input = rekindle_model::StageInput::Tokens(&tokens);
            stage.forward(slot, input, Some(&tokens)).unwrap();
        }
        stage.memory()
    };
    let (rows, hidden, float) = (26, 24, 4);
    let one = memory(Recompute::Block, 1);
    // The inputs of 3 blocks and the gradient that runs backward.
    assert_eq!(one.activations, rows * hidden * float * (3 + 1));
    assert_eq!(memory(Recompute::Block, 3).activations, 3 * one.activations);
    let kept = memory(Recompute::None, 1);
    let rest = rows * float * (24 + 80 + 40 + 4 + 2 + 80);
    assert_eq!(kept.activations, one.activations + 3 * rest);
    assert_eq!(one.scratch, kept.scratch + rest, "one block at work");
}
