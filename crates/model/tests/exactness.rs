//! The exactness contract: the cut into stages, lanes and threads doesn't show in any bit (MO-1, MO-2).
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use rekindle_model::StateDigest;
use rekindle_types::Numerics;
use support::{Cluster, Shape, Step, samples, small_model};

const STEPS: usize = 8;

fn train(shape: Shape) -> (Vec<Step>, StateDigest) {
    let per_step = (shape.micro_batch * shape.micro_batches) as usize;
    let all = samples(
        11,
        per_step * STEPS,
        shape.seq_len as usize + 1,
        shape.model.vocab_size,
    );
    let mut cluster = Cluster::<f32>::new(shape);
    let steps = all.chunks(per_step).map(|batch| cluster.step(batch)).collect();
    (steps, cluster.digest())
}

fn check_placements(tied: bool) {
    let single = Shape::single(small_model(tied));
    let (steps, digest) = train(single.clone());
    assert!(
        steps[STEPS - 1].loss < steps[0].loss && steps.iter().all(|s| s.finite),
        "{steps:?}"
    );
    let four = vec![0..1, 1..2, 2..4, 4..5];
    let uneven = vec![0..3, 3..4, 4..5];
    let two = vec![0..2, 2..5];
    let others = [
        (
            "two threads",
            Shape {
                threads: 2,
                ..single.clone()
            },
        ),
        (
            "three threads",
            Shape {
                threads: 3,
                ..single.clone()
            },
        ),
        (
            "four stages",
            Shape {
                cuts: four,
                ..single.clone()
            },
        ),
        (
            "three uneven stages",
            Shape {
                cuts: uneven,
                threads: 2,
                ..single.clone()
            },
        ),
        (
            "two lanes",
            Shape {
                lanes: 2,
                ..single.clone()
            },
        ),
        (
            "two stages, two lanes",
            Shape {
                cuts: two.clone(),
                lanes: 2,
                ..single.clone()
            },
        ),
        (
            "two stages, four lanes",
            Shape {
                cuts: two,
                lanes: 4,
                threads: 2,
                ..single.clone()
            },
        ),
    ];
    for (name, shape) in others {
        let (other_steps, other_digest) = train(shape);
        assert_eq!(other_steps, steps, "{name}");
        assert_eq!(other_digest, digest, "{name}");
    }
}

#[test]
fn placement_does_not_show_with_tied_embeddings() {
    check_placements(true);
}

#[test]
fn placement_does_not_show_with_separate_embeddings() {
    check_placements(false);
}

/// The order in which lanes deal with micro-batches changes float sums; the digest must tell.
#[test]
fn float_sums_in_another_order_are_caught() {
    let single = Shape {
        numerics: Numerics::Fast,
        ..Shape::single(small_model(true))
    };
    let (_, digest) = train(single.clone());
    assert_eq!(
        train(single.clone()).1,
        digest,
        "the same order gives the same bits"
    );
    let (_, other) = train(Shape { lanes: 2, ..single });
    assert_ne!(other, digest);
}

#[test]
fn order_of_micro_batches_does_not_show() {
    let shape = Shape::single(small_model(false));
    let all = samples(5, 8, shape.seq_len as usize + 1, shape.model.vocab_size);
    let run = |order: [usize; 4]| {
        let mut cluster = Cluster::<f32>::new(shape.clone());
        let batch: Vec<_> = order
            .iter()
            .flat_map(|&m| all[2 * m..2 * m + 2].to_vec())
            .collect();
        (cluster.step(&batch), cluster.digest())
    };
    assert_eq!(run([0, 1, 2, 3]), run([3, 1, 0, 2]));
}

#[test]
fn a_discarded_step_leaves_no_trace() {
    let shape = Shape::single(small_model(true));
    let all = samples(5, 16, shape.seq_len as usize + 1, shape.model.vocab_size);
    let mut clean = Cluster::<f32>::new(shape.clone());
    let want = (clean.step(&all[..8]), clean.digest());
    let mut cluster = Cluster::<f32>::new(shape);
    cluster.forward_backward(&all[8..]);
    cluster.stages[0][0].discard_gradients().unwrap();
    assert_eq!((cluster.step(&all[..8]), cluster.digest()), want);
}
