//! A shadow that is fed the gradients of a rank has that rank's state, bit for bit (MO-5).
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rekindle_compute::{Cpu, Frozen};
use rekindle_model::{EngineError, ExactSum, LayerStep, Shadow, Stage, StateKind};
use rekindle_types::{LayerId, Numerics};
use support::{Cluster, Shape, samples, small_model};

type Engine = Stage<Cpu<f32>>;
type Copy = Shadow<Cpu<f32>>;

/// A shadow with the state of a stage, on other threads.
fn shadow_of(stage: &Engine) -> Copy {
    shadow_with(stage, &StateKind::ALL)
}

/// The same with these kinds alone.
fn shadow_with(stage: &Engine, kinds: &[StateKind]) -> Copy {
    let device = Arc::new(Cpu::new(3).unwrap());
    let weights = kinds.contains(&StateKind::Weights);
    let mut shadow = Shadow::new(device, stage.spec().clone(), weights).unwrap();
    for (layer, range) in shadow.layers() {
        for &kind in kinds {
            let bytes = stage.state_bytes(layer, kind, range.clone()).unwrap();
            shadow
                .set_state_bytes(layer, kind, range.clone(), &bytes)
                .unwrap();
        }
    }
    shadow
}

type Gradients = BTreeMap<LayerId, Vec<f32>>;

/// What a rank tells its guard before the sums of the commit point.
fn gradients_of(stage: &mut Engine) -> Gradients {
    let mut all = Gradients::new();
    for layer in stage.layers() {
        let mut gradient = vec![f32::NAN; stage.owned(layer).unwrap().len()];
        stage.gradients_mut().write_mean(layer, &mut gradient).unwrap();
        if !gradient.is_empty() {
            all.insert(layer, gradient);
        }
    }
    all
}

fn update(shadow: &mut Copy, count: u64, (lr, clip): (f64, f64), all: &Gradients) -> Result<(), EngineError> {
    shadow.update(clip, &|layer| {
        let gradient = all.get(&layer)?.as_slice();
        Some(LayerStep { gradient, count, lr })
    })
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
    let (mut squares, mut gradients) = (ExactSum::default(), Vec::new());
    for stage in cluster.stages.iter_mut().flatten() {
        let plain = stage.finish_gradients().unwrap();
        gradients.push(gradients_of(stage));
        let again = stage.finish_gradients().unwrap();
        assert_eq!(plain, again, "the norm that was made on the way");
        squares = squares.add(plain.sum_squares).unwrap();
    }
    let clip = (cluster.max_norm / (squares.norm() + 1e-6)).min(1.0);
    for (shadow, gradients) in shadows.iter_mut().zip(&gradients) {
        update(shadow, n, (cluster.lr, clip), gradients).unwrap();
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

/// Moments don't depend on weights, so a shadow may do without.
#[test]
fn moments_alone_have_the_same_bits() {
    const MOMENTS: [StateKind; 2] = [StateKind::ExpAvg, StateKind::ExpAvgSq];
    for shape in shapes() {
        let mut cluster = Cluster::<f32>::new(shape.clone());
        let ranks = cluster.stages.iter().flatten();
        let mut shadows: Vec<Copy> = ranks.map(|stage| shadow_with(stage, &MOMENTS)).collect();
        shadows
            .iter_mut()
            .for_each(|shadow| shadow.reserve_whole().unwrap());
        let mut held = Vec::new();
        for (n, batch) in (1..).zip(batches(&shape, 4)) {
            step(&mut cluster, &mut shadows, n, &batch);
            for (shadow, stage) in shadows.iter().zip(cluster.stages.iter().flatten()) {
                for (layer, range) in shadow.layers() {
                    for kind in MOMENTS {
                        let own = stage.state_bytes(layer, kind, range.clone()).unwrap();
                        let copied = shadow.state_bytes(layer, kind, range.clone()).unwrap();
                        assert!(own.as_ref() == copied, "{kind} of {layer}, step {n}");
                    }
                    assert!(shadow.state_bytes(layer, StateKind::Weights, range).is_err());
                }
            }
            // The state before an update is held through it, as guards do.
            held = shadows.iter().flat_map(|s| s.freeze_state().unwrap()).collect();
            assert!(held.iter().all(|part| MOMENTS.contains(&part.kind)));
        }
        assert!(!held.is_empty());
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
    let whole = gradients_of(&mut cluster.stages[0][0]);
    let (mut without, mut short) = (whole.clone(), whole.clone());
    without.remove(&LayerId::Head);
    short.get_mut(&LayerId::Head).unwrap().pop();
    let layer = LayerId::Head;
    let refused = update(&mut shadow, 1, (1e-3, 1.0), &without);
    assert_eq!(refused, Err(EngineError::NoGradient { layer }));
    let refused = update(&mut shadow, 1, (1e-3, 1.0), &short);
    assert!(matches!(refused, Err(EngineError::Input { .. })), "{refused:?}");
    assert_eq!(shadow.digest().unwrap(), before);
    update(&mut shadow, 1, (1e-3, 1.0), &whole).unwrap();
    assert_ne!(shadow.digest().unwrap(), before);
}

/// Squares that were made with the floats don't outlive a change of the sums.
#[test]
fn a_gradient_that_changes_after_it_was_told_has_its_own_norm() {
    let mut cluster = Cluster::<f32>::new(Shape::single(small_model(false)));
    let batch = batches(&cluster.shape, 1).remove(0);
    cluster.forward_backward(&batch);
    let stage = &mut cluster.stages[0][0];
    let before = stage.finish_gradients().unwrap();
    gradients_of(stage);
    let layer = LayerId::Block(0);
    let all = stage.owned(layer).unwrap();
    let more = stage.gradient_bytes(layer, all.clone()).unwrap().into_owned();
    stage.add_gradient_bytes(layer, all, &more).unwrap();
    let after = stage.finish_gradients().unwrap();
    assert!(after.sum_squares > before.sum_squares, "{before:?} {after:?}");
    stage.discard_gradients().unwrap();
    assert_eq!(stage.finish_gradients().unwrap().sum_squares, ExactSum::default());
}
