//! Submit and cancel.

use rekindle_coordinator_core::{Answer, CancelMode, Change, Config, Effect, Event, Rejection, Seq};
use rekindle_types::{JobState, Report};

use crate::desk::{Desk, id, spec};

#[test]
fn the_same_request_makes_one_job() {
    let mut desk = Desk::new();
    let first = desk.submit("r1", spec(1, 5)).unwrap();
    let Answer::Submitted { job, created: true } = first else {
        panic!("{first:?}")
    };
    assert_eq!(job, id("j-1"));
    let again = desk.submit("r1", spec(1, 5)).unwrap();
    assert_eq!(
        again,
        Answer::Submitted {
            job: job.clone(),
            created: false
        }
    );
    let other = desk.submit("r1", spec(1, 6)).unwrap_err();
    assert!(
        matches!(&other, Rejection::RequestReused { job: of, .. } if *of == job),
        "{other}"
    );
    assert_eq!(
        desk.changes(|change| matches!(change, Change::Submitted { .. })),
        1
    );
    // The machine that takes up the journal knows the request as well.
    let mut desk = desk.restart();
    assert_eq!(
        desk.submit("r1", spec(1, 5)).unwrap(),
        Answer::Submitted { job, created: false }
    );
}

#[test]
fn ids_are_given_or_counted() {
    let mut desk = Desk::new();
    let given = desk.submit_as("", Some(id("j-1")), spec(1, 5), false).unwrap();
    assert_eq!(
        given,
        Answer::Submitted {
            job: id("j-1"),
            created: true
        }
    );
    assert_eq!(desk.job(spec(1, 5)), id("j-2"), "the number of the submission");
    let taken = desk
        .submit_as("", Some(id("j-2")), spec(1, 5), false)
        .unwrap_err();
    assert_eq!(taken, Rejection::JobExists { job: id("j-2") });
}

#[test]
fn validation_alone_changes_nothing() {
    let mut desk = Desk::new();
    assert_eq!(desk.submit_as("r", None, spec(1, 5), true), Ok(Answer::Valid));
    assert_eq!(desk.journal, []);
    assert!(matches!(
        desk.submit("x".repeat(129).as_str(), spec(1, 5)),
        Err(Rejection::RequestIdTooLong { bytes: 129 })
    ));
}

#[test]
fn an_answer_waits_for_its_record() {
    let mut desk = Desk::new();
    desk.prompt = false;
    desk.submit("r1", spec(1, 5)).unwrap();
    let reply = desk
        .effects
        .iter()
        .find(|effect| matches!(effect, Effect::Reply { .. }));
    assert_eq!(reply.and_then(Effect::after), Some(Seq(1)));
    assert_eq!(desk.machine.jobs(), [], "not visible before it is durable");
    desk.tell(Event::Persisted { seq: Seq(1) });
    assert_eq!(desk.machine.jobs().len(), 1);
    let published = desk
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::Publish { .. }));
    assert!(published);
}

#[test]
fn a_journal_that_cant_be_written_stops_everything() {
    let mut desk = Desk::new();
    desk.prompt = false;
    desk.submit("r1", spec(1, 5)).unwrap();
    desk.tell(Event::PersistFailed {
        message: "disk full".to_owned(),
    });
    assert!(matches!(desk.effects.last(), Some(Effect::Halt { message }) if message.contains("disk full")));
    assert!(matches!(
        desk.submit("r2", spec(1, 5)),
        Err(Rejection::Halted { .. })
    ));
    assert_eq!(desk.machine.next_deadline(), None);
}

#[test]
fn jobs_are_bounded_and_the_oldest_ended_go_first() {
    let mut desk = Desk::with(Config {
        max_jobs: 2,
        ..Config::default()
    });
    let (first, second) = (desk.job(spec(1, 5)), desk.job(spec(1, 5)));
    assert_eq!(
        desk.submit("", spec(1, 5)),
        Err(Rejection::TooManyJobs { jobs: 2 })
    );
    desk.cancel(&second, CancelMode::Graceful).unwrap();
    let third = desk.job(spec(1, 5));
    assert!(desk.machine.job(&second).is_none());
    assert!(desk.machine.job(&first).is_some() && desk.machine.job(&third).is_some());
}

#[test]
fn events_are_bounded_and_keep_their_numbers() {
    let mut desk = Desk::with(Config {
        max_events: 3,
        ..Config::default()
    });
    let job = desk.training(5);
    let numbers: Vec<u64> = desk
        .machine
        .events(&job, 0)
        .unwrap()
        .iter()
        .map(|event| event.seq)
        .collect();
    assert_eq!(numbers, [4, 5, 6]);
    assert_eq!(desk.machine.events(&job, 6).unwrap().len(), 1);
    assert_eq!(desk.machine.events(&id("nobody"), 0), None);
}

#[test]
fn cancel_ends_a_queued_job_at_once_and_only_once() {
    let mut desk = Desk::new();
    let job = desk.job(spec(1, 5));
    let cancelled = Ok(Answer::Cancelled {
        job: job.clone(),
        state: JobState::Cancelled,
    });
    assert_eq!(desk.cancel(&job, CancelMode::Graceful), cancelled);
    assert_eq!(
        desk.cancel(&job, CancelMode::Graceful),
        cancelled,
        "again is harmless"
    );
    assert_eq!(desk.changes(|change| matches!(change, Change::Ended { .. })), 1);
    let nobody = id("nobody");
    assert_eq!(
        desk.cancel(&nobody, CancelMode::Now),
        Err(Rejection::UnknownJob { job: nobody })
    );
}

#[test]
fn cancel_waits_for_the_trainers_of_a_running_job() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.cancel(&job, CancelMode::Graceful).unwrap();
    assert_eq!(desk.view(&job).state, JobState::Cancelling);
    assert_eq!(desk.orders(), ["stop a", "stop b"]);
    desk.report("a", &job, 0, Report::Stopped);
    assert_eq!(desk.view(&job).state, JobState::Cancelling);
    desk.report("b", &job, 1, Report::Stopped);
    assert_eq!(desk.view(&job).state, JobState::Cancelled);
    assert_eq!(desk.machine.free_slots().len(), 2);
    let view = desk.view(&job);
    assert_eq!(view.last_step.map(|step| step.step), Some(1));
}

#[test]
fn cancel_doesnt_wait_for_ever_or_at_all_when_told_so() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.cancel(&job, CancelMode::Graceful).unwrap();
    desk.wait(16_000, &["a", "b"]);
    assert_eq!(desk.view(&job).state, JobState::Cancelled);
    let again = desk.orders().iter().filter(|order| *order == "stop a").count();
    assert!(again >= 3, "an unanswered stop is repeated, {again} times");
    assert_eq!(
        desk.machine.free_slots().len(),
        0,
        "its trainers still hold their slots"
    );

    let mut desk = Desk::new();
    let job = desk.training(9);
    let state = JobState::Cancelled;
    assert_eq!(
        desk.cancel(&job, CancelMode::Now),
        Ok(Answer::Cancelled { job, state })
    );
    assert_eq!(desk.machine.free_slots().len(), 0);
}

#[test]
fn an_ended_job_cant_be_cancelled() {
    let mut desk = Desk::new();
    let job = desk.training(1);
    desk.report("a", &job, 0, Report::Finished);
    desk.report("b", &job, 1, Report::Finished);
    let state = JobState::Succeeded;
    assert_eq!(
        desk.cancel(&job, CancelMode::Now),
        Err(Rejection::JobEnded { job, state })
    );
}
