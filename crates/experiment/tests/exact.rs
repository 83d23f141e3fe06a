//! Methods that call themselves exact are (EX-6), and the others aren't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod support;

use rekindle_experiment::{Failing, Outcome, Place, Trace};
use support::{Bench, STAGES, config, failure, losses};

/// T5: whatever is lost when, shadow and checkpoints end with the bits of the undisturbed run.
#[test]
fn t5_exact_methods_have_the_undisturbed_digest_and_losses() {
    let bench = Bench::new(config());
    let want = bench.run("none", &[]);
    assert_eq!(want.outcome, Outcome::Finished);
    assert!(
        want.points.last().unwrap().loss < want.points[0].loss,
        "it learns: {:?}",
        losses(&want.points)
    );
    for seed in 1..4 {
        let trace = Trace::draw(
            seed,
            0.03,
            Failing::All,
            STAGES,
            4,
            bench.config.most_iterations(),
        );
        for method in ["shadow", "checkpoint-1", "checkpoint-4"] {
            let run = bench.run_on(method, &trace);
            assert!(!run.failures.is_empty(), "seed {seed} lost nothing");
            assert_eq!(run.digest, want.digest, "{method}, seed {seed}");
            assert_eq!(losses(&run.points), losses(&want.points), "{method}, seed {seed}");
        }
    }
}

#[test]
fn a_checkpoint_runs_the_steps_since_again_and_a_shadow_runs_none() {
    let bench = Bench::new(config());
    let lost = [
        failure(7, 2, &[Place::Blocks(3)]),
        failure(11, 0, &[Place::Embed, Place::Blocks(5)]),
    ];
    let run = bench.run("checkpoint-4", &lost);
    // Iteration 7 comes after step 6: back to 4. Iteration 11 comes after step 8: back to 8.
    let went: Vec<_> = run
        .failures
        .iter()
        .map(|f| (f.iteration, f.committed, f.back_at))
        .collect();
    assert_eq!(went, [(7, 6, 4), (11, 8, 8)]);
    assert_eq!((run.at_end.iterations, run.at_end.steps_again), (20, 2));
    assert_eq!(
        (
            run.at_end.restores,
            run.at_end.dropped_micro_batches,
            run.at_end.stages_lost
        ),
        (2, 2, 3)
    );
    let run = bench.run("shadow", &lost);
    assert_eq!((run.at_end.iterations, run.at_end.steps_again), (18, 0));
}

#[test]
fn a_run_that_never_gets_there_says_so() {
    let mut config = config();
    config.longest = 1.5;
    let bench = Bench::new(config);
    let lost: Vec<_> = (1..=27).map(|i| failure(i, 0, &[Place::Blocks(1)])).collect();
    let run = bench.run("checkpoint-4", &lost);
    assert_eq!(run.outcome, Outcome::OutOfIterations);
    assert_eq!((run.at_end.iterations, run.digest), (27, None));
}

#[test]
fn a_lossy_method_has_another_digest_only_once_something_was_lost() {
    let bench = Bench::new(config());
    let want = bench.run("none", &[]).digest;
    assert_eq!(bench.run("checkfree", &[]).digest, want);
    let lost = [failure(5, 0, &[Place::Blocks(2)])];
    for method in [
        "random",
        "copy",
        "average",
        "checkfree",
        "loss-aware",
        "checkfree+",
    ] {
        assert_ne!(bench.run(method, &lost).digest, want, "{method}");
    }
}
