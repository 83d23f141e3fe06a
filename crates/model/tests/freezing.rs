//! State that is frozen for a checkpoint: it stays as it was, and training gives the same bits as without (MO-4).
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::VecDeque;
use std::time::Duration;

use rekindle_compute::{ComputeError, Cpu, Frozen};
use rekindle_model::{EngineError, FrozenPart, Stage, StateDigest, StateKind};
use rekindle_types::{BLOCK, LayerId, Section};
use support::{Cluster, Shape, samples, small_model};

const STEPS: usize = 6;
const ALL: u64 = 1 << 30;

type Part = FrozenPart<Cpu<f32>>;

fn digest(parts: &[Part]) -> StateDigest {
    parts.iter().fold(StateDigest::default(), |sum, part| {
        let bytes = part.frozen.bytes().unwrap();
        assert_eq!(bytes.len(), 4 * part.range.len());
        let found = StateDigest::of_blocks(part.layer, part.kind, part.range.start / BLOCK, bytes, 4);
        if let Some(digests) = &part.digests {
            let section = section(part);
            assert_eq!(digests.len() as u64, section.chunk_count());
            for (n, digest) in digests.iter().enumerate() {
                let chunk = section.chunk(n as u64);
                let (start, end) = (chunk.start as usize, chunk.end as usize);
                let bytes = &bytes[4 * (start - part.range.start)..4 * (end - part.range.start)];
                let want = StateDigest::of_blocks(part.layer, part.kind, start / BLOCK, bytes, 4);
                assert_eq!(*digest, want, "{} of {}, chunk {n}", part.kind, part.layer);
            }
        }
        sum.add(found)
    })
}

fn section(part: &Part) -> Section {
    Section {
        layer: part.layer,
        kind: part.kind,
        start: part.range.start as u64,
        end: part.range.end as u64,
        offset: 0,
        digests: Vec::new(),
    }
}

fn freeze(cluster: &Cluster<f32>) -> Vec<Part> {
    let stages = cluster.stages.iter().flatten();
    stages.flat_map(|stage| stage.freeze_state().unwrap()).collect()
}

fn batches(shape: &Shape) -> Vec<Vec<Vec<u32>>> {
    let per_step = (shape.micro_batch * shape.micro_batches) as usize;
    let all = samples(
        3,
        per_step * STEPS,
        shape.seq_len as usize + 1,
        shape.model.vocab_size,
    );
    all.chunks(per_step).map(<[_]>::to_vec).collect()
}

fn reserve(cluster: &mut Cluster<f32>, pool: u64) {
    for stage in cluster.stages.iter_mut().flatten() {
        let reserved = stage.reserve_for_checkpoints(pool).unwrap();
        assert!(reserved <= pool);
    }
}

/// The digest after every step, without any capture.
fn plain(shape: &Shape) -> Vec<StateDigest> {
    let mut cluster = Cluster::<f32>::new(shape.clone());
    batches(shape)
        .iter()
        .map(|batch| {
            cluster.step(batch);
            cluster.digest()
        })
        .collect()
}

fn shapes() -> Vec<(&'static str, Shape)> {
    let single = |tied| Shape::single(small_model(tied));
    let lanes = |tied, lanes| Shape {
        lanes,
        cuts: vec![0..2, 2..5],
        threads: 2,
        ..single(tied)
    };
    vec![
        ("one stage", single(false)),
        (
            "four stages, tied",
            Shape {
                cuts: vec![0..1, 1..2, 2..4, 4..5],
                ..single(true)
            },
        ),
        ("two stages, two lanes, tied", lanes(true, 2)),
        ("two stages, four lanes", lanes(false, 4)),
        // More lanes than the head has blocks: some own nothing of it.
        ("two stages, three lanes, tied", lanes(true, 3)),
    ]
}

/// A capture after every step, each held over the next two updates.
#[test]
fn captures_hold_while_training_goes_on_and_leave_no_trace() {
    for (name, shape) in shapes() {
        let want = plain(&shape);
        let mut cluster = Cluster::<f32>::new(shape.clone());
        // Two captures in flight need the state twice.
        reserve(&mut cluster, ALL);
        reserve(&mut cluster, ALL);
        for stage in cluster.stages.iter_mut().flatten() {
            stage.set_hashing(true);
        }
        let mut held = VecDeque::new();
        for (step, batch) in batches(&shape).iter().enumerate() {
            cluster.step(batch);
            assert_eq!(cluster.digest(), want[step], "{name}, step {step}");
            held.push_back((step, freeze(&cluster)));
            assert!(held[held.len() - 1].1.iter().all(|part| part.digests.is_some()));
            if held.len() == 3 {
                let (step, parts) = held.pop_front().unwrap();
                assert_eq!(digest(&parts), want[step], "{name}: capture of step {step}");
            }
        }
        for (step, parts) in held {
            assert_eq!(digest(&parts), want[step], "{name}: capture of step {step}");
        }
    }
}

/// A writer on a thread of its own, with no spares, few, or many: updates wait for it and change nothing it has yet
/// to read.
#[test]
fn pools_of_any_size_give_the_same_bits() {
    for (name, shape) in shapes() {
        let want = plain(&shape);
        let layer = 12 * shape.model.layout(LayerId::Block(0)).numel() as u64;
        for pool in [0, layer - 1, layer, 3 * layer, ALL] {
            let mut cluster = Cluster::<f32>::new(shape.clone());
            reserve(&mut cluster, pool);
            let (sender, captures) = std::sync::mpsc::channel::<(usize, Vec<Part>)>();
            std::thread::scope(|scope| {
                let want = &want;
                scope.spawn(move || {
                    for (step, parts) in captures {
                        let sum = parts.into_iter().fold(StateDigest::default(), |sum, part| {
                            std::thread::yield_now();
                            sum.add(digest(&[part]))
                        });
                        assert_eq!(sum, want[step], "{name}, pool {pool}, capture of step {step}");
                    }
                });
                for (step, batch) in batches(&shape).iter().enumerate() {
                    cluster.step(batch);
                    assert_eq!(cluster.digest(), want[step], "{name}, pool {pool}, step {step}");
                    sender.send((step, freeze(&cluster))).unwrap();
                }
                drop(sender);
            });
        }
    }
}

fn one_stage() -> (Cluster<f32>, Vec<Vec<u32>>) {
    let shape = Shape::single(small_model(false));
    let batch = batches(&shape).remove(0);
    (Cluster::new(shape), batch)
}

fn update(stage: &mut Stage<Cpu<f32>>, layer: LayerId) -> Result<(), EngineError> {
    stage.update(layer, 1, 1e-3, 1.0)
}

#[test]
fn an_update_that_waited_in_vain_changes_nothing_and_can_be_repeated() {
    let (mut plain, batch) = one_stage();
    plain.forward_backward(&batch);
    plain.stages[0][0].finish_gradients().unwrap();
    let layers = plain.stages[0][0].layers();
    for layer in &layers {
        update(&mut plain.stages[0][0], *layer).unwrap();
    }
    let (mut cluster, batch) = one_stage();
    cluster.forward_backward(&batch);
    let before = cluster.digest();
    let stage = &mut cluster.stages[0][0];
    stage.finish_gradients().unwrap();
    let held = stage.freeze_state().unwrap();
    let patience = Duration::from_millis(3);
    stage.set_update_patience(patience);
    for layer in &layers {
        let error = update(stage, *layer).unwrap_err();
        let named = matches!(error, EngineError::Compute(ComputeError::StillFrozen { .. }));
        assert!(named, "{error}");
    }
    assert!(stage.take_update_wait() >= patience * layers.len() as u32);
    assert_eq!(stage.digest().unwrap(), before);
    let import = stage.import(LayerId::Embed, StateKind::Weights, 0, &[1.0]);
    assert!(matches!(
        import,
        Err(EngineError::Compute(ComputeError::Frozen { .. }))
    ));
    drop(held);
    for layer in &layers {
        update(stage, *layer).unwrap();
    }
    assert_eq!(stage.digest().unwrap(), plain.digest());
}

/// With several lanes an update out of place leaves the other lanes' parts open until they are set.
#[test]
fn open_weights_cannot_be_read_frozen_or_computed_with() {
    let shape = Shape {
        lanes: 2,
        ..Shape::single(small_model(false))
    };
    let layer = LayerId::Embed;
    let batch = batches(&shape).remove(0);
    let mut cluster = Cluster::<f32>::new(shape);
    let numel = cluster.numel(layer);
    reserve(&mut cluster, ALL);
    cluster.forward_backward(&batch);
    let stage = &mut cluster.stages[0][0];
    let owned = stage.owned(layer).unwrap();
    assert!(owned.start == 0 && owned.end < numel, "{owned:?}");
    let other = stage.export(layer, StateKind::Weights, owned.end..numel).unwrap();
    let held = stage.freeze_state().unwrap();
    update(stage, layer).unwrap();
    let open = EngineError::Incomplete {
        layer,
        start: owned.end,
        end: numel,
    };
    assert_eq!(stage.weight_bytes(layer, 0..numel).unwrap_err(), open);
    assert_eq!(stage.freeze_state().err(), Some(open.clone()));
    let tokens = vec![0; stage.spec().rows()];
    let pass = stage.forward_only(rekindle_model::StageInput::Tokens(&tokens), Some(&tokens));
    assert_eq!(pass.err(), Some(open));
    // What this lane owns can be read: it goes to the other lanes, into the digest and into checkpoints.
    stage.weight_bytes(layer, owned.clone()).unwrap();
    stage.digest().unwrap();
    stage
        .import(layer, StateKind::Weights, owned.end, &other)
        .unwrap();
    stage.weight_bytes(layer, 0..numel).unwrap();
    drop(held);
}

/// Digests are of what the update left: whatever is written afterwards takes them away, but for the other lanes'
/// weights.
#[test]
fn digests_of_an_update_do_not_outlive_what_they_are_of() {
    let shape = Shape {
        lanes: 2,
        ..Shape::single(small_model(false))
    };
    let batch = batches(&shape).remove(0);
    let mut cluster = Cluster::<f32>::new(shape);
    let has = |cluster: &Cluster<f32>| -> Vec<bool> {
        let parts = cluster.stages[0][0].freeze_state().unwrap();
        let embed = parts.iter().filter(|part| part.layer == LayerId::Embed);
        embed.map(|part| part.digests.is_some()).collect()
    };
    assert_eq!(has(&cluster), [false; 3]);
    cluster.stages[0][0].set_hashing(true);
    cluster.step(&batch);
    assert_eq!(has(&cluster), [true; 3]);
    let owned = cluster.stages[0][0].owned(LayerId::Embed).unwrap();
    let stage = &mut cluster.stages[0][0];
    stage
        .import(LayerId::Embed, StateKind::Weights, owned.end, &[0.5])
        .unwrap();
    assert_eq!(has(&cluster), [true; 3]);
    let stage = &mut cluster.stages[0][0];
    stage
        .import(LayerId::Embed, StateKind::ExpAvg, owned.end - 1, &[0.5])
        .unwrap();
    assert_eq!(has(&cluster), [false; 3]);
    cluster.step(&batch);
    assert_eq!(has(&cluster), [true; 3]);
    cluster.stages[0][0].set_hashing(false);
    cluster.step(&batch);
    assert_eq!(has(&cluster), [false; 3]);
}
