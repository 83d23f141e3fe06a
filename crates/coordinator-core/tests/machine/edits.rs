//! Trainers that outlive their epoch.

use rekindle_coordinator_core::NotFound;
use rekindle_types::{
    Command, FailureClass, JobId, JobSpec, JobState, RankId, Report, TrainerPhase, Wait, Watermark,
};

use crate::desk::{Desk, failure, memory_spec, saving_spec, spec, status, step};
use crate::memory::ready;

fn crashed() -> Report {
    Report::Failed(failure(FailureClass::WorkerCrash))
}

fn halted() -> Report {
    Report::Halted { failure: None }
}

/// A job on a and b that has committed five steps.
fn running(desk: &mut Desk) -> JobId {
    let job = desk.training_of(memory_spec(9));
    (2..=5).for_each(|at| desk.report("a", &job, 0, Report::Step(step(at))));
    desk.orders();
    job
}

#[test]
fn who_survives_is_halted_and_given_the_next_plan_in_its_slot() {
    let mut desk = Desk::new();
    let job = running(&mut desk);
    desk.report("b", &job, 1, crashed());
    assert_eq!(
        desk.orders(),
        ["halt a"],
        "what still trains; nothing else before it has halted"
    );
    desk.report("a", &job, 0, halted());
    assert_eq!(desk.orders(), ["start a 0", "start b 1"]);
    ready(&mut desk, "b", &job, 2, 1, &[5, 4]);
    ready(&mut desk, "a", &job, 2, 0, &[5, 4]);
    let connects = desk.commands();
    let from = |command: &Command| match command {
        Command::Connect { from, .. } => from.step,
        _ => None,
    };
    assert_eq!(connects.iter().filter(|(_, c)| from(c) == Some(5)).count(), 2);
    desk.report_of("a", &job, 2, 0, Report::Step(step(6)));
    assert_eq!(desk.view(&job).state, JobState::Running);
}

/// So that lines which were never heard are told again, however many, and no others.
#[test]
fn who_goes_on_knows_which_lines_were_heard() {
    let mut desk = Desk::new();
    let job = running(&mut desk);
    desk.report("b", &job, 1, crashed());
    desk.report("a", &job, 0, halted());
    let heard: Vec<_> = desk
        .commands()
        .into_iter()
        .filter_map(|(_, command)| match command {
            Command::Start(start) => Some(start.heard),
            _ => None,
        })
        .collect();
    assert_eq!(heard, [Some(5), Some(5)]);
}

/// Its report was on the way when it was told to halt.
#[test]
fn one_that_committed_another_step_before_it_heard_to_halt_is_kept() {
    let mut desk = Desk::new();
    let job = running(&mut desk);
    desk.report("b", &job, 1, crashed());
    desk.report("a", &job, 0, Report::Step(step(6)));
    assert_eq!(desk.orders(), ["halt a"]);
    desk.report("a", &job, 0, halted());
    assert_eq!(desk.orders(), ["start a 0", "start b 1"]);
}

/// What is there isn't what was wanted: its epoch is over.
#[test]
fn a_start_that_was_lost_with_the_connection_is_given_again_though_the_one_before_still_lives() {
    let mut desk = Desk::new();
    let job = running(&mut desk);
    desk.report("b", &job, 1, crashed());
    desk.report("a", &job, 0, halted());
    assert_eq!(desk.orders(), ["halt a", "start a 0", "start b 1"]);
    desk.lose("a");
    desk.register("a", 1, 1, vec![status(&job, 1, 0, TrainerPhase::Training)]);
    assert_eq!(desk.orders(), ["stop a", "start a 0"]);
}

#[test]
fn one_that_halted_by_itself_is_a_weak_failure_and_waits_for_the_verdict() {
    let mut desk = Desk::new();
    let job = running(&mut desk);
    let lost = Report::Halted {
        failure: Some(failure(FailureClass::Network)),
    };
    desk.report("a", &job, 0, lost.clone());
    assert_eq!(desk.orders(), Vec::<String>::new());
    assert_eq!(
        desk.view(&job).state,
        JobState::Running,
        "not before the cause is known"
    );
    desk.report("b", &job, 1, crashed());
    assert_eq!(
        desk.orders(),
        ["start a 0", "start b 1"],
        "at once: nobody has to be waited for"
    );
    let incidents = desk.machine.incidents(&job).expect("the job is known");
    let verdict = incidents[0].initiating().expect("it is decided");
    assert_eq!(verdict.failure.class, FailureClass::WorkerCrash);
    desk.report_of("a", &job, 1, 0, lost);
    assert_eq!(desk.orders(), Vec::<String>::new(), "late, and of no effect");
}

#[test]
fn one_that_is_not_heard_to_halt_is_stopped() {
    let mut desk = Desk::new();
    let job = running(&mut desk);
    desk.report("b", &job, 1, crashed());
    assert_eq!(desk.orders(), ["halt a"]);
    desk.wait(6_000, &["a", "b"]);
    assert_eq!(desk.orders(), ["stop a"]);
    desk.report("a", &job, 0, halted());
    assert_eq!(desk.orders(), Vec::<String>::new(), "it was told to stop since");
    desk.report("a", &job, 0, Report::Stopped);
    assert_eq!(desk.orders(), ["start a 0", "start b 1"]);
}

#[test]
fn one_that_stands_still_is_stopped_and_the_others_are_halted() {
    let mut desk = Desk::with(rekindle_coordinator_core::Config::default());
    let job = running(&mut desk);
    let waits = Watermark {
        step: 6,
        passes: 1,
        waits: Some(Wait {
            on: RankId(1),
            what: "a frame".to_owned(),
            ms: 2_500,
        }),
    };
    let mut orders = Vec::new();
    for _ in 0..20 {
        desk.report("a", &job, 0, Report::Watermark(waits.clone()));
        desk.wait(3_000, &["a", "b"]);
        orders.extend(desk.orders());
        if !orders.is_empty() {
            break;
        }
    }
    assert_eq!(orders, ["halt a", "stop b"]);
}

#[test]
fn one_that_finds_no_place_in_time_is_stopped_and_so_is_one_whose_worker_leaves() {
    for leaves in [false, true] {
        let mut desk = Desk::new();
        let job = running(&mut desk);
        desk.lose("b");
        desk.wait(9_000, &["a"]);
        assert_eq!(desk.orders(), ["halt a"], "b didn't come back");
        desk.report("a", &job, 0, halted());
        assert_eq!(desk.orders(), Vec::<String>::new(), "b may come back yet");
        if leaves {
            desk.drain("a");
        } else {
            desk.wait(11_000, &["a"]);
        }
        assert_eq!(desk.orders(), ["stop a"], "{leaves}");
    }
}

/// The job on a and b goes on from a checkpoint without `lost`, once there are other workers; what was ordered then.
fn placed_without(desk: &mut Desk, lost: &str, (waits, rank): (&str, u32)) -> (JobId, Vec<String>) {
    let job = desk.training_of(saving_spec(9));
    desk.lose(lost);
    desk.wait(9_000, &[waits]);
    desk.report(waits, &job, rank, halted());
    desk.orders();
    desk.register("c", 7, 1, vec![]);
    desk.register("d", 8, 1, vec![]);
    desk.wait(1_000, &[waits, "c", "d"]);
    let orders = desk.orders();
    (job, orders)
}

#[test]
fn a_plan_that_has_no_place_for_it_waits_until_it_is_gone() {
    let (_, orders) = placed_without(&mut Desk::new(), "b", ("a", 0));
    assert_eq!(orders, ["start a 0", "start c 1"], "it goes on where it waits");
    let mut desk = Desk::new();
    let (job, orders) = placed_without(&mut desk, "a", ("b", 1));
    assert_eq!(orders, ["stop b"], "its worker is to have the other rank");
    desk.report("b", &job, 1, Report::Stopped);
    assert_eq!(desk.orders(), ["start b 0", "start c 1"]);
}

/// The job before it in the queue needs its slot; it would look for its state for ever.
#[test]
fn one_whose_job_has_found_a_place_is_stopped_all_the_same_where_another_job_comes_first() {
    let mut desk = Desk::new();
    let saving = |stages| JobSpec {
        checkpoint: saving_spec(99).checkpoint,
        ..spec(stages, 99)
    };
    let mut jobs = Vec::new();
    for names in [&["a", "b", "c"][..], &["d", "e"]] {
        for name in names {
            desk.register(name, 1, 1, vec![]);
        }
        let job = desk.job(saving(names.len() as u32));
        (0..)
            .zip(names)
            .for_each(|(rank, name)| desk.ready(name, &job, rank));
        desk.report(names[0], &job, 0, Report::Step(step(1)));
        jobs.push(job);
    }
    let (message, passes) = ("the store is away".to_owned(), true);
    desk.found = Err(NotFound { message, passes });
    desk.orders();
    desk.report("e", &jobs[1], 1, crashed());
    desk.report("d", &jobs[1], 0, halted());
    desk.lose("a");
    desk.lose("e");
    desk.wait(9_000, &["b", "c", "d"]);
    desk.report("b", &jobs[0], 1, halted());
    desk.report("c", &jobs[0], 2, halted());
    assert_eq!(desk.orders(), ["halt d", "halt b", "halt c"]);
    desk.wait(11_000, &["b", "c", "d"]);
    let mut orders = desk.orders();
    orders.sort();
    orders.dedup();
    assert_eq!(orders, ["stop b", "stop c", "stop d"]);
    let next = desk.machine.next_deadline();
    assert!(next > Some(desk.now), "nothing is due: {next:?}");
    desk.found = Ok(None);
    for (name, job, rank) in [("b", 0, 1), ("c", 0, 2), ("d", 1, 0)] {
        desk.report(name, &jobs[job], rank, Report::Stopped);
    }
    assert_eq!(desk.orders(), ["start b 0", "start c 1", "start d 2"]);
}

#[test]
fn a_coordinator_that_was_restarted_meanwhile_stops_it() {
    let mut desk = Desk::new();
    let job = running(&mut desk);
    desk.report("b", &job, 1, crashed());
    desk.report("a", &job, 0, halted());
    let mut desk = desk.restart();
    let training = status(&job, 1, 0, TrainerPhase::Training);
    desk.register("a", 1, 1, vec![training]);
    let orders = desk.orders();
    assert!(orders.contains(&"stop a".to_owned()), "{orders:?}");
}
