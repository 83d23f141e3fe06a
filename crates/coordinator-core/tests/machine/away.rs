//! Workers that are away for a while, or whose slots others have, while a job waits for the state in their memory.

use rekindle_coordinator_core::{CancelMode, Event};
use rekindle_types::spec::RecoverySource;
use rekindle_types::{FailureClass, JobId, JobState, RankId, Report, TrainerPhase};

use crate::desk::{Desk, failure, memory_spec, spec, status, step};
use crate::memory::{guards, ready, shadowed};

const NONE: [&str; 0] = [];

/// The machine of `b` is gone, and the job has waited for it for all but a second of the time it has.
fn nearly_given_up(desk: &mut Desk) -> JobId {
    let job = desk.training_of(memory_spec(9));
    desk.lose("b");
    desk.wait(9_000, &["a"]);
    desk.report("a", &job, 0, Report::Stopped);
    desk.wait(8_000, &["a"]);
    assert_eq!(desk.view(&job).state, JobState::Recovering);
    desk.orders();
    job
}

#[test]
fn a_connection_that_breaks_as_the_time_is_over_is_no_worker_that_stays_away() {
    for returns in [true, false] {
        let mut desk = Desk::new();
        let job = nearly_given_up(&mut desk);
        desk.lose("a");
        desk.register_kept("b", 2, 1, Vec::new(), vec![job.clone()]);
        desk.wait(5_000, &["b"]);
        assert_eq!(desk.view(&job).state, JobState::Recovering, "a isn't lost yet");
        if returns {
            desk.register("a", 1, 1, Vec::new());
            assert_eq!(desk.orders(), ["start a 0", "start b 1"]);
        } else {
            desk.wait(4_000, &["b"]);
            assert_eq!(desk.verdict(&job).worker.expect("it is named").as_str(), "a");
        }
    }
}

/// As a shell does it: a tick when the deadline is over that was known after the last event.
#[test]
fn the_time_of_a_job_that_waits_is_over_though_a_heartbeat_comes_just_then() {
    let mut desk = Desk::new();
    let job = nearly_given_up(&mut desk);
    for _ in 0..40 {
        desk.now += 150;
        desk.beat("a");
        while desk.machine.next_deadline().is_some_and(|at| at <= desk.now) {
            desk.tell(Event::Tick);
        }
    }
    assert_eq!(desk.verdict(&job).worker.expect("it is named").as_str(), "b");
}

/// Rank 0 of a job dies while the coordinator is away, and its slot on `a` is given to the other job before that, and
/// that a step was committed, is heard.
fn crowded_out(desk: &mut Desk) -> (Desk, JobId, JobId) {
    desk.register("a", 1, 1, vec![]);
    desk.register("b", 1, 1, vec![]);
    let job = desk.job(memory_spec(9));
    desk.ready("a", &job, 0);
    desk.ready("b", &job, 1);
    let mut other = spec(1, 9);
    other.recovery.sources = vec![RecoverySource::Local];
    let other = desk.job(other);
    let mut desk = desk.restart();
    desk.register("b", 1, 1, vec![status(&job, 1, 1, TrainerPhase::Training)]);
    let lost = Some(failure(FailureClass::Network));
    desk.report("b", &job, 1, Report::Halted { failure: lost });
    desk.register("a", 1, 1, vec![]);
    assert_eq!(desk.orders().last().expect("it has room").as_str(), "start a 0");
    assert_eq!(desk.view(&other).state, JobState::Starting);
    desk.report("a", &job, 0, Report::Step(step(1)));
    desk.report("a", &job, 0, Report::Failed(failure(FailureClass::WorkerCrash)));
    desk.report("b", &job, 1, Report::Stopped);
    desk.ready("a", &other, 0);
    desk.report("a", &other, 0, Report::Step(step(1)));
    desk.orders();
    (desk, job, other)
}

/// The state is there, only not the room for it.
#[test]
fn a_job_whose_worker_is_there_waits_until_others_have_left_its_slots() {
    let (mut desk, job, other) = crowded_out(&mut Desk::new());
    desk.wait(60_000, &["a", "b"]);
    let view = desk.view(&job);
    assert_eq!(view.state, JobState::Recovering, "{:?}", view.failure);
    assert!(view.reason.contains("1 more free"), "{}", view.reason);
    desk.cancel(&other, CancelMode::Now).expect("it is taken");
    desk.orders();
    desk.report("a", &other, 0, Report::Stopped);
    assert_eq!(desk.orders(), ["start a 0", "start b 1"]);
}

/// Each would keep the slot from the other.
#[test]
fn of_two_jobs_whose_state_lies_on_one_worker_the_first_has_the_slot_first() {
    let (mut desk, job, other) = crowded_out(&mut Desk::new());
    desk.report("a", &other, 0, Report::Failed(failure(FailureClass::WorkerCrash)));
    assert_eq!(desk.orders(), ["start a 0", "start b 1"]);
    desk.wait(60_000, &["a", "b"]);
    assert_eq!(desk.view(&other).state, JobState::Recovering);
    desk.cancel(&job, CancelMode::Now).expect("it is taken");
    desk.orders();
    desk.report_of("a", &job, 2, 0, Report::Stopped);
    assert_eq!(desk.orders(), ["start a 0"]);
}

/// `b` has room for rank 1, and not its state: that is with its guard on `c`.
#[test]
fn no_rank_moves_away_from_the_guard_of_one_whose_worker_came_back_empty() {
    let mut desk = Desk::new();
    let job = shadowed(&mut desk);
    desk.register("d", 1, 1, Vec::new());
    desk.lose("b");
    desk.lose("c");
    desk.wait(9_000, &["a", "d"]);
    desk.report("a", &job, 0, Report::Stopped);
    desk.orders();
    desk.register("b", 2, 1, Vec::new());
    assert_eq!(desk.orders(), NONE, "c may be started again");
    desk.register_kept("c", 2, 1, Vec::new(), vec![job.clone()]);
    assert_eq!(desk.orders(), ["start a 0", "start b 1", "start c 2"]);
}

/// What the others are believed to have may not be whole: nobody moves as long as it may turn out needless.
#[test]
fn after_a_restart_of_the_coordinator_a_job_that_waits_has_its_workers_back_first() {
    for returns in [true, false] {
        let mut desk = Desk::new();
        let job = shadowed(&mut desk);
        desk.register("d", 1, 1, Vec::new());
        desk.lose("b");
        desk.wait(9_000, &["a", "c", "d"]);
        assert_eq!(desk.view(&job).state, JobState::Recovering);
        let mut desk = desk.restart();
        for name in ["a", "c", "d"] {
            desk.register(name, 1, 1, Vec::new());
        }
        assert_eq!(desk.orders(), NONE, "b may be back in a moment");
        if returns {
            desk.register_kept("b", 1, 1, Vec::new(), vec![job.clone()]);
            assert_eq!(desk.orders(), ["start a 0", "start b 1", "start c 2"]);
        } else {
            desk.wait(9_000, &["a", "c", "d"]);
            assert_eq!(desk.orders(), ["start a 0", "start d 1", "start c 2"]);
        }
    }
}

/// A plan that committed nothing may have left its new workers without any state, though it runs where the one before
/// did.
#[test]
fn a_worker_that_came_back_empty_and_got_nothing_yet_is_no_guard_to_rely_on() {
    let mut desk = Desk::new();
    let job = shadowed(&mut desk);
    desk.register("d", 1, 1, Vec::new());
    desk.lose("c");
    desk.register("c", 2, 1, Vec::new());
    desk.report("a", &job, 0, Report::Stopped);
    desk.report("b", &job, 1, Report::Stopped);
    assert_eq!(desk.orders().len(), 2 + 3, "halted, started again");
    // Rank 2 hasn't had its state when rank 1 is lost, whose guard it is.
    desk.lose("b");
    desk.wait(9_000, &["a", "c", "d"]);
    desk.report_of("a", &job, 2, 0, Report::Stopped);
    desk.report_of("c", &job, 2, 2, Report::Stopped);
    desk.orders();
    desk.wait(1_000, &["a", "c", "d"]);
    assert_eq!(desk.orders(), NONE);
    desk.register_kept("b", 2, 1, Vec::new(), vec![job.clone()]);
    assert_eq!(desk.orders(), ["start a 0", "start b 1", "start c 2"]);
}

/// Rank 1 died in an update, and its guard's machine was lost before it had its state from there: of each step
/// another rank's is missing.
#[test]
fn where_each_step_lacks_another_rank_the_newest_is_told_and_the_worker_that_took_it_along() {
    let mut desk = Desk::new();
    let mut spec = spec(2, 9);
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Shadow];
    let job = desk.training_of(spec);
    desk.lose("a");
    desk.wait(11_000, &["b"]);
    desk.report("b", &job, 1, Report::Stopped);
    desk.register("c", 1, 1, Vec::new());
    ready(&mut desk, "c", &job, 2, 0, &[]);
    guards(&mut desk, "b", &job, 1, &[4], (0, &[5]));
    let verdict = desk.verdict(&job);
    assert_eq!(verdict.rank, Some(RankId(1)));
    assert_eq!(verdict.worker.expect("it is named").as_str(), "a");
    for part in ["step 5 lacks rank 1's state", "nobody's memory"] {
        assert!(verdict.message.contains(part), "{}", verdict.message);
    }
}
