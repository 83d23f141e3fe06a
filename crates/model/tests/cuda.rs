//! The engine on a CUDA device: PyTorch's runs, the same bits whatever the cut, and state held while training goes on.
//!
//! Where there is no device this says so; with REKINDLE_REQUIRE_CUDA=1 that is a failure.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;
use std::sync::Arc;

use rekindle_compute::Frozen;
use rekindle_compute::cuda::{Cuda, Precision};
use rekindle_model::StateDigest;
use rekindle_types::{ModelConfig, Numerics, Recompute};
use support::{Close, Cluster, Fixture, Shape, Step, samples, small_model};

const STEPS: usize = 6;

fn cuda(precision: Precision) -> Option<Arc<Cuda>> {
    match Cuda::open(0, precision) {
        Ok(cuda) => Some(Arc::new(cuda)),
        Err(error) => {
            assert!(std::env::var_os("REKINDLE_REQUIRE_CUDA").is_none(), "{error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

fn fixture(name: &str) -> Option<Fixture> {
    let folder = match name {
        "llama-gqa" => "../../../shared/fixtures/llama-gqa",
        _ => "tests/fixtures/llama-tied",
    };
    // Elsewhere, when the tests were built on another machine.
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let named = std::env::var_os("REKINDLE_FIXTURES").map(|all| Path::new(&all).join(name));
    Fixture::open(&named.unwrap_or_else(built))
}

fn reference(precision: Precision, close: &Close) {
    let Some(device) = cuda(precision) else { return };
    for name in ["llama-tied", "llama-gqa"] {
        let Some(fixture) = fixture(name) else { continue };
        let end = fixture.model.num_hidden_layers + 2;
        let on = || Arc::clone(&device);
        fixture.check_on(
            on,
            (std::iter::once(0..end).collect(), 1, 4),
            Numerics::Exact,
            close,
        );
        fixture.check_on(
            on,
            (std::iter::once(0..end).collect(), 1, 2),
            Numerics::Fast,
            close,
        );
        fixture.check_on(on, (vec![0..2, 2..end], 2, 2), Numerics::Exact, close);
    }
}

#[test]
fn pytorch_runs_in_single_precision() {
    let close = Close {
        loss: 2e-5,
        norm: 2e-4,
        weights: 2e-4,
    };
    reference(Precision::F32, &close);
}

#[test]
fn pytorch_runs_in_bf16() {
    let close = Close {
        loss: 2e-2,
        norm: 5e-2,
        weights: 2e-2,
    };
    reference(Precision::Bf16, &close);
}

fn batches(shape: &Shape) -> Vec<Vec<Vec<u32>>> {
    let per_step = (shape.micro_batch * shape.micro_batches) as usize;
    let len = shape.seq_len as usize + 1;
    let all = samples(3, per_step * STEPS, len, shape.model.vocab_size);
    all.chunks(per_step).map(<[_]>::to_vec).collect()
}

/// Losses and norms of all steps, and the digest at the end.
fn train(device: &Arc<Cuda>, shape: &Shape) -> (Vec<Step>, StateDigest) {
    let mut cluster = Cluster::on(|| Arc::clone(device), shape.clone());
    let steps = batches(shape).iter().map(|batch| cluster.step(batch)).collect();
    (steps, cluster.digest())
}

/// A model whose rows fill whole tiles, and one whose don't.
fn models() -> [ModelConfig; 2] {
    let even = ModelConfig {
        hidden_size: 128,
        intermediate_size: 256,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        vocab_size: 256,
        ..small_model(false)
    };
    [even, small_model(true)]
}

#[test]
fn the_cut_and_recomputation_do_not_show() {
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(device) = cuda(precision) else { return };
        for model in models() {
            let single = Shape {
                seq_len: 48,
                ..Shape::single(model)
            };
            let want = train(&device, &single);
            assert!(want.0.iter().all(|step| step.finite && step.loss.is_finite()));
            assert!(want.0[STEPS - 1].loss < want.0[0].loss, "{:?}", want.0);
            let lanes = Shape {
                lanes: 2,
                cuts: vec![0..2, 2..5],
                ..single.clone()
            };
            let again = Shape {
                recompute: Recompute::Block,
                ..single.clone()
            };
            let stages = Shape {
                cuts: vec![0..1, 1..2, 2..4, 4..5],
                ..single.clone()
            };
            for (what, shape) in [
                ("once more", single),
                ("lanes", lanes),
                ("recompute", again),
                ("stages", stages),
            ] {
                assert!(train(&device, &shape) == want, "{what}, {precision:?}");
            }
        }
    }
}

/// A capture after every step, held over the next update, with room for all of it and with room for a part.
#[test]
fn held_state_stays_and_does_not_show() {
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(device) = cuda(precision) else { return };
        for pool in [1 << 30, 100_000] {
            let shape = Shape::single(small_model(false));
            let want = train(&device, &shape);
            let mut cluster = Cluster::on(|| Arc::clone(&device), shape.clone());
            cluster.stages[0][0].reserve_for_checkpoints(pool).unwrap();
            let mut steps = Vec::new();
            let mut held = Vec::new();
            for batch in batches(&shape) {
                let stage = &cluster.stages[0][0];
                let before: Vec<(_, Vec<u8>)> = stage
                    .freeze_state()
                    .unwrap()
                    .into_iter()
                    .map(|part| {
                        let bytes = stage
                            .state_bytes(part.layer, part.kind, part.range.clone())
                            .unwrap();
                        (part, bytes.into_owned())
                    })
                    .collect();
                // Those of the step before go when these are there, as a writer's do.
                held.clear();
                let read = |all: &[(rekindle_model::FrozenPart<Cuda>, Vec<u8>)]| {
                    all.iter()
                        .all(|(part, bytes)| part.frozen.bytes().unwrap() == bytes)
                };
                let step = std::thread::scope(|scope| {
                    let reader = scope.spawn(|| read(&before));
                    let step = cluster.step(&batch);
                    assert!(reader.join().unwrap(), "read while the step ran");
                    step
                });
                assert!(read(&before), "read after the step");
                steps.push(step);
                held = before;
            }
            assert!((steps, cluster.digest()) == want, "{precision:?}, pool of {pool}");
        }
    }
}
