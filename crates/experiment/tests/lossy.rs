//! What lossy methods rebuild, refuse and promise.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod support;

use rekindle_experiment::{Outcome, Place};
use support::{Bench, config, failure, losses, refusal};

/// T10, in one process: the micro-batches that were done when the failure struck leave no trace.
#[test]
fn t10_a_failure_within_a_step_leaves_what_one_before_it_leaves() {
    let bench = Bench::new(config());
    for method in ["checkfree", "checkfree+", "loss-aware", "random"] {
        let at = |done| bench.run(method, &[failure(6, done, &[Place::Blocks(2)])]);
        let (start, middle) = (at(0), at(3));
        assert_eq!(
            start.failures[0].loss_after, middle.failures[0].loss_after,
            "{method}"
        );
        assert_eq!(start.digest, middle.digest, "{method}");
        assert_eq!(losses(&start.points), losses(&middle.points), "{method}");
    }
}

/// T8: nothing was trained yet, so both neighbours count the same.
#[test]
fn t8_a_failure_before_the_first_step_weighs_both_neighbours_alike() {
    let bench = Bench::new(config());
    let run = bench.run("checkfree", &[failure(1, 2, &[Place::Blocks(2)])]);
    let shares: Vec<_> = run.failures[0].rebuilt[0]
        .parts
        .iter()
        .map(|p| (p.stage, p.share))
        .collect();
    assert_eq!(shares, [(1, 0.5), (3, 0.5)]);
    assert_eq!(run.outcome, Outcome::Finished);
}

#[test]
fn sources_are_those_of_the_method() {
    let bench = Bench::new(config());
    let parts = |method, stage| {
        let run = bench.run(method, &[failure(4, 0, &[Place::Blocks(stage)])]);
        let parts = run.failures[0].rebuilt[0].parts.iter();
        parts.map(|p| p.stage).collect::<Vec<_>>()
    };
    assert_eq!(parts("checkfree", 0), [1]);
    assert_eq!(parts("checkfree", 1), [0, 2]);
    assert_eq!(parts("checkfree+", 1), [0]);
    assert_eq!(parts("checkfree+", 4), [5]);
    assert_eq!(parts("copy", 3), [2]);
    assert_eq!(parts("random", 3), [0usize; 0]);
}

#[test]
fn the_embedding_and_the_head_need_a_copy() {
    let bench = Bench::new(config());
    for place in [Place::Embed, Place::Head] {
        let lost = [failure(5, 1, &[place])];
        for method in ["checkfree", "average", "copy", "loss-aware"] {
            let run = bench.run(method, &lost);
            assert!(refusal(&run).contains(&place.to_string()), "{}", refusal(&run));
            assert_eq!(run.at_end.iterations, 4);
        }
        // The copy has every weight, so the loss doesn't change at all.
        let run = bench.run("checkfree+", &lost);
        assert_eq!(run.failures[0].jump(), Some(0.0));
        assert_eq!(run.outcome, Outcome::Finished);
    }
}

/// T7: a trace can't hold neighbours; two losses that merely share a source are rebuilt together.
#[test]
fn t7_losses_that_share_a_source_are_rebuilt_together() {
    let bench = Bench::new(config());
    let lost = [failure(5, 0, &[Place::Blocks(1), Place::Blocks(3)])];
    for method in ["average", "loss-aware"] {
        let run = bench.run(method, &lost);
        assert_eq!((run.failures[0].rebuilt.len(), run.at_end.stages_lost), (2, 2));
        assert!(run.failures[0].loss_after.unwrap().is_finite());
    }
}

/// Scored on what is then measured, the choice can't be worse than any method whose weights are among its candidates.
#[test]
fn the_loss_aware_choice_is_the_best_of_its_candidates() {
    let mut bench = Bench::new(config());
    // The cached micro-batch is the first of step 6.
    let batch = bench.text.batch(1, 6, &bench.config.shape).unwrap();
    bench.held_out = batch[..1].to_vec();
    let after = |method| {
        let run = bench.run(method, &[failure(6, 0, &[Place::Blocks(3)])]);
        run.failures[0].loss_after.unwrap()
    };
    let best = after("loss-aware");
    for other in ["copy", "average", "checkfree"] {
        assert!(best <= after(other), "{other}: {} is below {best}", after(other));
    }
}

/// Without failures the kinds of moments and learning rates can't differ; after one each of them must.
#[test]
fn moments_and_learning_rates_make_a_difference() {
    let bench = Bench::new(config());
    let lost = [failure(8, 0, &[Place::Blocks(2)])];
    let names = [
        "checkfree",
        "checkfree:second",
        "checkfree:both",
        "checkfree:decay",
        "checkfree:flat",
    ];
    let runs = names.map(|m| bench.run(m, &lost));
    for (i, run) in runs.iter().enumerate() {
        // The weights start alike, so the loss right after the recovery is the same.
        assert_eq!(run.failures[0].loss_after, runs[0].failures[0].loss_after);
        for other in &runs[i + 1..] {
            assert_ne!(run.digest, other.digest, "{} and {}", run.method, other.method);
        }
    }
}
