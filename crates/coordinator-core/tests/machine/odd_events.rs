//! Events that shouldn't happen and do: names of workers that went silent, processes that come back too late, clocks
//! that are set.

use rekindle_coordinator_core::{CloseReason, Event};
use rekindle_types::{FailureClass, IncidentState, JobState, Report, TrainerPhase};

use crate::desk::{Desk, failure, status, step};

#[test]
fn the_name_of_a_silent_worker_is_free_after_its_lease_and_not_before() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    // No connection broke: the machine of b vanished without a word, and somebody starts another in its place.
    desk.wait(8_000, &["a"]);
    let early = desk.register("b", 2, 1, vec![]);
    assert!(matches!(desk.closed(early), Some(CloseReason::NameTaken { .. })));
    assert_eq!(desk.view(&job).state, JobState::Running, "b may only be slow");
    desk.wait(3_000, &["a"]);
    let late = desk.register("b", 2, 1, vec![]);
    assert!(desk.accepted(late));
    assert_eq!(desk.verdict(&job).class, FailureClass::WorkerLost);
}

#[test]
fn a_worker_whose_name_was_taken_while_it_was_cut_off_is_refused_and_its_trainers_are_fenced() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.lose("b");
    let session = desk.register("b", 2, 1, vec![]);
    assert!(desk.accepted(session), "the one before isn't connected");
    desk.report("a", &job, 0, Report::Stopped);
    assert_eq!(desk.view(&job).state, JobState::Starting);
    assert_eq!(desk.orders(), ["halt a", "start a 0", "start b 1"]);
    // The first one lives: it was only cut off.
    let training = || vec![status(&job, 1, 1, TrainerPhase::Training)];
    let old = desk.register("b", 1, 1, training());
    assert!(matches!(desk.closed(old), Some(CloseReason::NameTaken { .. })));
    assert_eq!(desk.orders(), [""; 0]);
    desk.ready("a", &job, 0);
    // The second one goes in turn, and the first one gets its name back, not its part.
    desk.lose("b");
    let back = desk.register("b", 1, 1, training());
    assert!(desk.accepted(back));
    assert!(
        desk.orders().contains(&"stop b".to_owned()),
        "its trainer is of an epoch that is over"
    );
    desk.report_of("b", &job, 1, 1, Report::Step(step(8)));
    assert_ne!(
        desk.view(&job).last_step.map(|step| step.step),
        Some(8),
        "nor does its word count"
    );
}

#[test]
fn a_third_process_of_a_name_waits_for_the_second_as_that_did_for_the_first() {
    let mut desk = Desk::new();
    desk.register("a", 1, 1, vec![]);
    for incarnation in [2, 3] {
        let session = desk.register("a", incarnation, 1, vec![]);
        assert!(matches!(
            desk.closed(session),
            Some(CloseReason::NameTaken { .. })
        ));
    }
    desk.lose("a");
    let second = desk.register("a", 2, 1, vec![]);
    assert!(desk.accepted(second));
    let third = desk.register("a", 3, 1, vec![]);
    assert!(matches!(desk.closed(third), Some(CloseReason::NameTaken { .. })));
    assert_eq!(desk.machine.workers()[0].incarnation, 2);
}

#[test]
fn a_clock_that_is_set_while_a_job_recovers_neither_hurries_nor_stops_it() {
    for jump in [-3_600_000_i64, 3_600_000] {
        let mut desk = Desk::new();
        let job = desk.saving(9);
        desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
        desk.report("a", &job, 0, Report::Stopped);
        assert_eq!(desk.view(&job).state, JobState::Starting);
        desk.now = desk.now.checked_add_signed(jump).expect("a time");
        desk.tell(Event::Tick);
        desk.wait(1_000, &["a", "b"]);
        assert_eq!(desk.view(&job).state, JobState::Starting, "{jump}");
        for (name, rank) in [("a", 0), ("b", 1)] {
            desk.report_of(
                name,
                &job,
                2,
                rank,
                Report::Ready {
                    in_memory: rekindle_types::InMemory::default(),
                    data_address: "h:1".to_owned(),
                },
            );
        }
        desk.report_of(
            "a",
            &job,
            2,
            0,
            Report::Step(rekindle_types::StepReport {
                epoch: rekindle_types::Epoch(2),
                ..step(1)
            }),
        );
        let incidents = desk.machine.incidents(&job).expect("the job is known");
        assert_eq!(incidents.len(), 1);
        assert_eq!(incidents[0].state, IncidentState::Recovered, "{jump}");
        // Set back, a phase has no length rather than a huge one.
        let took = incidents[0].durations();
        assert!(took.total.is_some_and(|ms| ms < 4_000_000), "{took:?}");
    }
}
