//! Lost trainers, lost workers, hangs: the verdict names what came first.

use rekindle_coordinator_core::Config;
use rekindle_types::{FailureClass, JobState, RankId, Report};

use crate::desk::{Desk, failure, spec, step, worker};

#[test]
fn a_crash_fails_the_job_at_once_and_stops_the_others() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    let verdict = desk.verdict(&job);
    assert_eq!(
        (verdict.class, verdict.rank),
        (FailureClass::WorkerCrash, Some(RankId(1)))
    );
    assert_eq!(verdict.worker, Some(worker("b")));
    assert_eq!(desk.orders(), ["stop a"], "the one that ended needs no stop");
    desk.report("a", &job, 0, Report::Stopped);
    assert_eq!(desk.machine.free_slots().len(), 2);
}

#[test]
fn a_crash_is_the_verdict_though_its_peers_speak_first() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.report("a", &job, 0, Report::Failed(failure(FailureClass::Network)));
    assert_eq!(
        desk.view(&job).state,
        JobState::Running,
        "it may be a mere consequence"
    );
    desk.wait(300, &["a", "b"]);
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    let verdict = desk.verdict(&job);
    assert_eq!(
        (verdict.class, verdict.rank),
        (FailureClass::WorkerCrash, Some(RankId(1)))
    );
}

#[test]
fn a_network_failure_alone_is_the_verdict_after_the_settle_time() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.report("a", &job, 0, Report::Failed(failure(FailureClass::Network)));
    desk.wait(1_500, &["a", "b"]);
    let verdict = desk.verdict(&job);
    assert_eq!(
        (verdict.class, verdict.rank),
        (FailureClass::Network, Some(RankId(0)))
    );
}

#[test]
fn a_silent_worker_is_the_verdict_though_its_peers_speak_first() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.wait(500, &["a", "b"]);
    desk.report("a", &job, 0, Report::Failed(failure(FailureClass::Network)));
    desk.wait(5_000, &["a"]);
    assert_eq!(
        desk.view(&job).state,
        JobState::Running,
        "b wasn't heard of since"
    );
    desk.wait(6_000, &["a"]);
    let verdict = desk.verdict(&job);
    assert_eq!(
        (verdict.class, verdict.rank),
        (FailureClass::WorkerLost, Some(RankId(1)))
    );
    assert!(verdict.message.contains("wasn't heard of"), "{}", verdict.message);
}

#[test]
fn a_lost_connection_has_a_grace() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.lose("b");
    desk.wait(7_900, &["a"]);
    assert_eq!(desk.view(&job).state, JobState::Running);
    desk.wait(200, &["a"]);
    let verdict = desk.verdict(&job);
    assert_eq!(
        (verdict.class, verdict.worker),
        (FailureClass::WorkerLost, Some(worker("b")))
    );
    assert_eq!(desk.orders(), ["stop a"]);
    assert_eq!(desk.machine.workers().len(), 1);
}

#[test]
fn a_worker_that_leaves_is_lost() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.report("a", &job, 0, Report::Stopped);
    let verdict = desk.verdict(&job);
    assert_eq!(
        (verdict.class, verdict.rank),
        (FailureClass::WorkerLost, Some(RankId(0)))
    );
}

#[test]
fn numbers_that_arent_finite_fail_the_job() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    let mut bad = step(2);
    bad.loss = f64::NAN;
    desk.report("a", &job, 0, Report::Step(bad));
    assert_eq!(desk.verdict(&job).class, FailureClass::NumericNan);
    let text = serde_json::to_string(&desk.journal).unwrap();
    assert!(
        !text.contains("null,\"grad_norm\""),
        "the journal holds finite numbers only"
    );
}

#[test]
fn a_start_that_takes_too_long_names_the_rank() {
    let mut desk = Desk::new();
    desk.register("a", 1, 1, vec![]);
    desk.register("b", 1, 1, vec![]);
    let job = desk.job(spec(2, 9));
    desk.ready("a", &job, 0);
    desk.wait(122_000, &["a", "b"]);
    let verdict = desk.verdict(&job);
    assert_eq!(
        (verdict.class, verdict.rank),
        (FailureClass::Hang, Some(RankId(1)))
    );
    assert_eq!(verdict.worker, Some(worker("b")));
}

#[test]
fn a_step_that_takes_too_long_is_a_hang_by_the_measure_of_the_ones_before() {
    let config = Config {
        progress_floor: 2_000,
        ..Config::default()
    };
    let mut desk = Desk::with(config);
    let job = desk.training(99);
    for number in 2..6 {
        desk.wait(400, &["a", "b"]);
        desk.report("a", &job, 0, Report::Step(step(number)));
    }
    desk.wait(7_000, &["a", "b"]);
    assert_eq!(
        desk.view(&job).state,
        JobState::Running,
        "20 steps' time isn't over"
    );
    desk.wait(3_500, &["a", "b"]);
    let verdict = desk.verdict(&job);
    assert_eq!(verdict.class, FailureClass::Hang);
    assert!(verdict.message.contains("after step 5"), "{}", verdict.message);
}

#[test]
fn ranks_that_never_finish_are_named() {
    let mut desk = Desk::new();
    let job = desk.training(1);
    desk.report("a", &job, 0, Report::Finished);
    desk.wait(302_000, &["a", "b"]);
    let verdict = desk.verdict(&job);
    assert_eq!(
        (verdict.class, verdict.rank),
        (FailureClass::Hang, Some(RankId(1)))
    );
}
