//! A shadow that is fed the gradients of a rank has that rank's state, bit for bit (MO-5).
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::VecDeque;
use std::sync::Arc;

use rekindle_compute::{Cpu, Frozen};
use rekindle_model::{EngineError, ExactSum, Shadow, Stage, StateKind};
use rekindle_types::{LayerId, Numerics};
use support::{Cluster, Shape, samples, small_model};

type Engine = Stage<Cpu<f32>>;
type Copy = Shadow<Cpu<f32>>;

/// A shadow with the state of a stage, on other threads.
fn shadow_of(stage: &Engine) -> Copy {
    let device = Arc::new(Cpu::new(3).unwrap());
    let mut shadow = Shadow::new(device, stage.spec().clone()).unwrap();
    for (layer, range) in shadow.layers() {
        for kind in StateKind::ALL {
            let bytes = stage.state_bytes(layer, kind, range.clone()).unwrap();
            shadow
                .set_state_bytes(layer, kind, range.clone(), &bytes)
                .unwrap();
        }
    }
    shadow
}

fn feed(shadow: &mut Copy, stage: &Engine) {
    for (layer, range) in shadow.layers() {
        let gradient = stage.final_gradient(layer).unwrap();
        assert_eq!(gradient.len(), range.len());
        let bytes: Vec<u8> = gradient.iter().flat_map(|value| value.to_le_bytes()).collect();
        shadow.set_gradient(layer, &bytes).unwrap();
    }
}

fn assert_same(shadow: &Copy, stage: &Engine, what: &str) {
    for (layer, range) in shadow.layers() {
        assert_eq!(stage.owned(layer).unwrap(), range);
        for kind in StateKind::ALL {
            let own = stage.state_bytes(layer, kind, range.clone()).unwrap();
            let copied = shadow.state_bytes(layer, kind, range.clone()).unwrap();
            assert!(own.as_ref() == copied, "{what}: {kind} of {layer}");
        }
    }
    assert_eq!(shadow.digest().unwrap(), stage.digest().unwrap(), "{what}");
}

/// One step of a cluster and of the shadows of all its ranks.
fn step(cluster: &mut Cluster<f32>, shadows: &mut [Copy], n: u64, batch: &[Vec<u32>]) {
    let loss = cluster.forward_backward(batch);
    cluster.reduce();
    let (mut squares, mut stages) = (ExactSum::default(), cluster.stages.iter_mut().flatten());
    for shadow in &mut *shadows {
        let stage = stages.next().unwrap();
        feed(shadow, stage);
        squares = squares
            .add(stage.finish_gradients().unwrap().sum_squares)
            .unwrap();
    }
    let clip = (cluster.max_norm / (squares.norm() + 1e-6)).min(1.0);
    for shadow in &mut *shadows {
        shadow.update(|_| (n, cluster.lr), clip).unwrap();
    }
    cluster.finish(loss);
}

fn batches(shape: &Shape, steps: usize) -> Vec<Vec<Vec<u32>>> {
    let per_step = (shape.micro_batch * shape.micro_batches) as usize;
    let all = samples(
        3,
        per_step * steps,
        shape.seq_len as usize + 1,
        shape.model.vocab_size,
    );
    all.chunks(per_step).map(<[_]>::to_vec).collect()
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for tied in [false, true] {
        for lanes in 1..=3 {
            for cuts in [std::iter::once(0..5).collect::<Vec<_>>(), vec![0..2, 2..5]] {
                shapes.push(Shape {
                    lanes,
                    cuts,
                    ..Shape::single(small_model(tied))
                });
            }
        }
    }
    shapes.push(Shape {
        numerics: Numerics::Fast,
        ..Shape::single(small_model(true))
    });
    shapes
}

#[test]
fn a_shadow_has_the_bits_of_its_rank() {
    for shape in shapes() {
        let what = |n: u64| {
            let (lanes, stages, tied) = (shape.lanes, shape.cuts.len(), shape.model.tie_word_embeddings);
            format!("{lanes} lanes of {stages} stages, tied: {tied}, step {n}")
        };
        let mut cluster = Cluster::<f32>::new(shape.clone());
        let ranks = cluster.stages.iter().flatten();
        let mut shadows: Vec<Copy> = ranks.map(shadow_of).collect();
        for (n, batch) in (1..).zip(batches(&shape, 5)) {
            step(&mut cluster, &mut shadows, n, &batch);
            for (shadow, stage) in shadows.iter().zip(cluster.stages.iter().flatten()) {
                assert_same(shadow, stage, &what(n));
            }
        }
    }
}

#[test]
fn the_last_two_steps_can_be_held() {
    let shape = Shape::single(small_model(true));
    let mut cluster = Cluster::<f32>::new(shape.clone());
    let mut shadows = vec![shadow_of(&cluster.stages[0][0])];
    shadows[0].reserve_whole().unwrap();
    let mut held = VecDeque::new();
    for (n, batch) in (1..).zip(batches(&shape, 6)) {
        step(&mut cluster, &mut shadows, n, &batch);
        let parts = shadows[0].freeze_state().unwrap();
        let bytes: Vec<Vec<u8>> = parts.iter().map(|p| p.frozen.bytes().unwrap().to_vec()).collect();
        held.push_back((parts, bytes));
        for (parts, bytes) in &held {
            assert!(
                parts
                    .iter()
                    .zip(bytes)
                    .all(|(p, b)| p.frozen.bytes().unwrap() == b)
            );
        }
        assert_same(&shadows[0], &cluster.stages[0][0], "held");
        // One is left for the next update to step around; the other makes room for it.
        if held.len() == 2 {
            held.pop_front();
        }
    }
}

#[test]
fn a_step_without_all_gradients_changes_nothing() {
    let mut cluster = Cluster::<f32>::new(Shape::single(small_model(false)));
    let mut shadow = shadow_of(&cluster.stages[0][0]);
    let before = shadow.digest().unwrap();
    let batch = batches(&cluster.shape, 1).remove(0);
    cluster.forward_backward(&batch);
    let stage = &cluster.stages[0][0];
    feed(&mut shadow, stage);
    let wrong = shadow.set_gradient(LayerId::Head, &[0; 4]);
    assert!(matches!(wrong, Err(EngineError::Compute(_))), "{wrong:?}");
    let refused = shadow.update(|_| (1, 1e-3), 1.0);
    let layer = LayerId::Head;
    assert_eq!(refused, Err(EngineError::NoGradient { layer }));
    assert_eq!(shadow.digest().unwrap(), before);
    feed(&mut shadow, stage);
    shadow.update(|_| (1, 1e-3), 1.0).unwrap();
    assert_ne!(shadow.digest().unwrap(), before);
    let refused = shadow.update(|_| (2, 1e-3), 1.0);
    assert!(
        matches!(refused, Err(EngineError::NoGradient { .. })),
        "used up: {refused:?}"
    );
}
