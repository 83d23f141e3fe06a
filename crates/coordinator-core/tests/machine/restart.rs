//! The coordinator dies and comes back: training goes on, nothing is told twice with effect.

use rekindle_coordinator_core::{CancelMode, CloseReason, Config, Coordinator, Effect, RestoreError, Seq};
use rekindle_types::{FailureClass, JobState, RankId, Report, TrainerPhase};

use crate::desk::{Desk, failure, spec, status, step, worker};

#[test]
fn running_trainers_are_adopted_and_not_touched() {
    let mut desk = Desk::new();
    let job = desk.training(2);
    let mut desk = desk.restart();
    desk.register("a", 1, 1, vec![status(&job, 1, 0, TrainerPhase::Training)]);
    desk.register("b", 1, 1, vec![status(&job, 1, 1, TrainerPhase::Training)]);
    assert_eq!(desk.orders(), [""; 0]);
    desk.report("a", &job, 0, Report::Step(step(2)));
    desk.report("a", &job, 0, Report::Finished);
    let mut desk = desk.restart();
    desk.register("a", 1, 1, vec![]);
    desk.register("b", 1, 1, vec![status(&job, 1, 1, TrainerPhase::Training)]);
    desk.report("b", &job, 1, Report::Finished);
    assert_eq!(desk.view(&job).state, JobState::Succeeded);
    assert_eq!(desk.orders(), [""; 0]);
}

#[test]
fn workers_that_dont_come_back_fail_the_job_by_name() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    let mut desk = desk.restart();
    desk.register("a", 1, 1, vec![status(&job, 1, 0, TrainerPhase::Training)]);
    desk.wait(9_000, &["a"]);
    let verdict = desk.verdict(&job);
    assert_eq!(
        (verdict.class, verdict.worker),
        (FailureClass::WorkerLost, Some(worker("b")))
    );
    assert!(
        verdict.message.contains("after the coordinator's restart"),
        "{}",
        verdict.message
    );
}

#[test]
fn a_start_that_was_under_way_goes_on() {
    let mut desk = Desk::new();
    desk.register("a", 1, 1, vec![]);
    desk.register("b", 1, 1, vec![]);
    desk.register("c", 1, 1, vec![]);
    let job = desk.job(spec(3, 2));
    let mut desk = desk.restart();
    assert_eq!(desk.orders(), [""; 0]);
    desk.register("a", 1, 1, vec![]);
    assert_eq!(desk.orders(), ["start a 0"], "it never got the order");
    desk.register("b", 1, 1, vec![status(&job, 1, 1, TrainerPhase::Loading)]);
    assert_eq!(desk.orders(), [""; 0]);
    desk.register("c", 1, 1, vec![status(&job, 1, 2, TrainerPhase::Ready)]);
    desk.ready("a", &job, 0);
    desk.ready("b", &job, 1);
    assert_eq!(desk.orders(), ["connect a", "connect b", "connect c"]);
}

#[test]
fn a_name_is_kept_for_the_process_that_is_awaited() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    let mut desk = desk.restart();
    let other = desk.register("b", 77, 1, vec![]);
    assert!(matches!(desk.closed(other), Some(CloseReason::NameTaken { .. })));
    desk.register("b", 1, 1, vec![status(&job, 1, 1, TrainerPhase::Training)]);
    desk.register("a", 1, 1, vec![status(&job, 1, 0, TrainerPhase::Training)]);
    desk.wait(9_000, &["a", "b"]);
    assert_eq!(desk.view(&job).state, JobState::Running);
}

#[test]
fn a_cancellation_goes_on() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.cancel(&job, CancelMode::Graceful).unwrap();
    let mut desk = desk.restart();
    desk.register("a", 1, 1, vec![status(&job, 1, 0, TrainerPhase::Training)]);
    assert_eq!(desk.orders(), ["stop a"]);
    desk.report("a", &job, 0, Report::Stopped);
    assert_eq!(
        desk.view(&job).state,
        JobState::Cancelling,
        "b isn't known to have stopped"
    );
    desk.register("b", 1, 1, vec![]);
    assert_eq!(desk.view(&job).state, JobState::Cancelled);
}

#[test]
fn a_verdict_that_was_due_is_given() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::DataError)));
    let last = desk.journal.pop().expect("the end's record");
    assert!(matches!(
        last.1.change,
        rekindle_coordinator_core::Change::Ended { .. }
    ));
    let desk = desk.restart();
    let verdict = desk.verdict(&job);
    assert_eq!(
        (verdict.class, verdict.rank),
        (FailureClass::DataError, Some(RankId(1)))
    );
}

#[test]
fn history_is_told_again_for_files_that_missed_it() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    let before = desk.machine.events(&job, 0).unwrap();
    let desk = desk.restart();
    let told = desk.effects.iter().filter_map(|effect| match effect {
        Effect::AppendEvent { event, .. } => Some((**event).clone()),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told, before);
    assert!(
        desk.effects
            .iter()
            .any(|effect| matches!(effect, Effect::PrepareOutput { .. }))
    );
}

#[test]
fn damaged_journals_are_refused() {
    let mut desk = Desk::new();
    desk.training(9);
    let mut gap = desk.journal.clone();
    gap.remove(1);
    let error = Coordinator::restore(Config::default(), gap).unwrap_err();
    assert!(
        matches!(
            error,
            RestoreError::Gap {
                wanted: Seq(2),
                found: Seq(3)
            }
        ),
        "{error}"
    );
    let mut twice = desk.journal.clone();
    let first = twice[0].1.clone();
    twice[1].1 = first;
    let error = Coordinator::restore(Config::default(), twice).unwrap_err();
    assert!(error.to_string().contains("submitted before"), "{error}");
}
