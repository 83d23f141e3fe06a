//! Workers coming, coming back, and taking each other's names.

use rekindle_coordinator_core::{CloseReason, Event};
use rekindle_types::{Command, Epoch, FailureClass, JobState, Report, TrainerPhase};

use crate::desk::{Desk, id, spec, status, step};

#[test]
fn a_second_worker_of_a_living_name_is_refused() {
    let mut desk = Desk::new();
    desk.register("a", 1, 1, vec![]);
    let second = desk.register("a", 2, 1, vec![]);
    assert!(matches!(desk.closed(second), Some(CloseReason::NameTaken { .. })));
    assert!(!desk.accepted(second));
    assert_eq!(desk.machine.workers()[0].incarnation, 1);
}

#[test]
fn a_restarted_worker_replaces_the_old_one_whose_trainers_are_lost() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.lose("b");
    let session = desk.register("b", 2, 1, vec![]);
    assert!(desk.accepted(session));
    let verdict = desk.verdict(&job);
    assert_eq!(verdict.class, FailureClass::WorkerLost);
    assert!(verdict.message.contains("restarted"), "{}", verdict.message);
    assert_eq!(desk.machine.free_slots().len(), 1, "the new one is free");
}

#[test]
fn registering_twice_is_harmless() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    let trainers = vec![status(&job, 1, 1, TrainerPhase::Training)];
    let first = desk.register("b", 1, 1, trainers.clone());
    let second = desk.register("b", 1, 1, trainers);
    assert!(matches!(desk.closed(first), Some(CloseReason::Superseded { .. })));
    assert!(desk.accepted(second));
    // The older connection's end comes late and means nothing.
    desk.tell(Event::SessionLost { session: first });
    desk.wait(20_000, &["a", "b"]);
    assert_eq!(desk.view(&job).state, JobState::Running);
    assert_eq!(desk.orders(), [""; 0], "nothing is started or stopped");
}

#[test]
fn messages_of_an_older_connection_are_dropped() {
    let mut desk = Desk::new();
    let first = desk.register("a", 1, 1, vec![]);
    desk.lose("a");
    desk.tell(Event::Heartbeat { session: first });
    assert_eq!(desk.machine.stats().stale_sessions, 1);
}

#[test]
fn trainers_nobody_wants_are_stopped() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.register(
        "c",
        1,
        2,
        vec![
            status(&id("unknown"), 3, 0, TrainerPhase::Training),
            status(&job, 1, 0, TrainerPhase::Training),
        ],
    );
    assert_eq!(
        desk.orders(),
        ["stop c", "stop c"],
        "an unknown job's, and a rank that is another worker's"
    );
    assert_eq!(
        desk.machine.free_slots().len(),
        0,
        "they hold their slots until they are gone"
    );
    desk.report_as("c", 1, &id("unknown"), 3, 0, Report::Stopped);
    assert_eq!(desk.machine.free_slots().len(), 1);
}

#[test]
fn an_order_lost_with_its_connection_is_given_again() {
    let mut desk = Desk::new();
    desk.register("a", 1, 1, vec![]);
    let job = desk.job(spec(1, 2));
    assert_eq!(desk.orders(), ["start a 0"]);
    desk.lose("a");
    desk.register("a", 1, 1, vec![]);
    assert_eq!(desk.orders(), ["start a 0"]);
    desk.lose("a");
    desk.register("a", 1, 1, vec![status(&job, 1, 0, TrainerPhase::Ready)]);
    assert_eq!(desk.orders(), ["connect a"]);
    desk.lose("a");
    desk.register("a", 1, 1, vec![status(&job, 1, 0, TrainerPhase::Training)]);
    assert_eq!(desk.orders(), [""; 0]);
    desk.report("a", &job, 0, Report::Step(step(1)));
    assert_eq!(desk.view(&job).state, JobState::Running);
}

#[test]
fn a_trainer_that_vanished_without_a_word_is_lost() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.lose("b");
    desk.register("b", 1, 1, vec![]);
    assert_eq!(
        desk.view(&job).state,
        JobState::Running,
        "its report may be on the way"
    );
    desk.wait(9_000, &["a", "b"]);
    assert!(desk.verdict(&job).message.contains("never said how it ended"));
}

#[test]
fn unusable_registrations_are_refused() {
    let mut desk = Desk::new();
    for slots in [0, 257] {
        let session = desk.register("a", 1, slots, vec![]);
        assert!(
            matches!(desk.closed(session), Some(CloseReason::Unusable { why, .. }) if why.contains("slots"))
        );
    }
}

#[test]
fn clock_jumps_lose_nobody() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.now -= 3_600_000;
    desk.wait(3_000, &["a", "b"]);
    desk.now += 7_200_000;
    desk.tell(Event::Tick);
    desk.wait(3_000, &["a", "b"]);
    assert_eq!(desk.view(&job).state, JobState::Running);
    assert_eq!(desk.machine.stats().workers_lost, 0);
    // And they don't stop the clock either.
    desk.wait(11_000, &["a"]);
    assert_eq!(desk.verdict(&job).class, FailureClass::WorkerLost);
}

#[test]
fn a_stray_trainer_that_speaks_is_stopped_once_and_nothing_else_with_it() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    let data_address = "h:9".to_owned();
    let ready = Report::Ready {
        data_address,
        in_memory: rekindle_types::InMemory::default(),
    };
    desk.report_as("a", 20, &job, 0, 1, ready.clone());
    let commands = desk.commands();
    let [(worker, Command::Stop { epoch, .. })] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(
        (worker.as_str(), *epoch),
        ("a", Epoch(0)),
        "the current epoch goes on"
    );
    desk.report_as("a", 21, &job, 0, 1, Report::Step(step(1)));
    assert_eq!(desk.orders(), [""; 0]);
    desk.report_as("a", 22, &id("unknown"), 4, 0, ready);
    assert_eq!(desk.orders(), ["stop a"]);
    assert_eq!(desk.view(&job).state, JobState::Running);
}
