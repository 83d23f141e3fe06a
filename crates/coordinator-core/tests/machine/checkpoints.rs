//! Checkpoints: parts, commit, acknowledgement, what waits for one, going on from one.

use rekindle_coordinator_core::{CancelMode, Change, Effect, Event, NotFound, StartSearch};
use rekindle_types::{Command, Epoch, FailureClass, JobState, Report, StartPoint, TrainerPhase};

use crate::desk::{Desk, failure, saved, saving_spec, status, step};

fn start(step: u64) -> StartPoint {
    StartPoint {
        step,
        url: format!("runs/j/checkpoints/step-{step:08}"),
        rebuilt: Vec::new(),
    }
}

#[test]
fn a_checkpoint_is_committed_when_every_rank_has_its_part() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.report("a", &job, 0, saved(1, 0));
    assert!(desk.commits().is_empty(), "one part isn't all");
    desk.report("b", &job, 1, saved(1, 1));
    let commits = desk.commits();
    assert_eq!(commits.len(), 1);
    assert_eq!((commits[0].step, commits[0].parts.len()), (1, 2));
    assert_eq!(
        desk.view(&job).checkpoint,
        None,
        "not before its manifest is durable"
    );
    desk.written(&job, 1, 1, None);
    assert_eq!(desk.view(&job).checkpoint.expect("it is committed").step, 1);
}

#[test]
fn a_part_is_acknowledged_only_when_its_checkpoint_is_decided() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.report("a", &job, 0, saved(1, 0));
    desk.report("a", &job, 0, Report::Step(step(2)));
    assert_eq!(desk.acknowledged("a"), 2, "the part is report 3");
    desk.report("b", &job, 1, saved(1, 1));
    desk.report("a", &job, 0, saved(2, 0));
    assert_eq!(desk.acknowledged("a"), 2);
    desk.written(&job, 1, 1, None);
    assert_eq!(
        desk.acknowledged("a"),
        4,
        "step 2's part, report 5, is still held"
    );
    assert_eq!(desk.acknowledged("b"), 2);
}

#[test]
fn a_coordinator_that_dies_hears_of_the_parts_again() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.report("a", &job, 0, saved(1, 0));
    desk.report("b", &job, 1, saved(1, 1));
    let mut desk = desk.restart();
    desk.register("a", 1, 1, vec![status(&job, 1, 0, TrainerPhase::Training)]);
    desk.register("b", 1, 1, vec![status(&job, 1, 1, TrainerPhase::Training)]);
    desk.report_as("a", 3, &job, 1, 0, saved(1, 0));
    desk.report_as("b", 2, &job, 1, 1, saved(1, 1));
    assert_eq!(desk.commits().len(), 1);
    desk.written(&job, 1, 1, None);
    // Died between the record and the acknowledgement: nothing is committed twice.
    let mut desk = desk.restart();
    desk.register("a", 1, 1, vec![status(&job, 1, 0, TrainerPhase::Training)]);
    desk.register("b", 1, 1, vec![status(&job, 1, 1, TrainerPhase::Training)]);
    desk.report_as("a", 3, &job, 1, 0, saved(1, 0));
    desk.report_as("b", 2, &job, 1, 1, saved(1, 1));
    assert!(desk.commits().is_empty());
    assert_eq!((desk.acknowledged("a"), desk.acknowledged("b")), (3, 2));
}

#[test]
fn a_part_that_fails_is_told_and_the_job_goes_on() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.report("a", &job, 0, saved(1, 0));
    let message = "disk full".to_owned();
    desk.report("b", &job, 1, Report::SaveFailed { step: 1, message });
    assert!(desk.commits().is_empty());
    let view = desk.view(&job);
    assert_eq!((view.state, view.failed_saves), (JobState::Running, 1));
    assert!(view.save_failure.expect("it says why").contains("disk full"));
    assert_eq!(desk.acknowledged("a"), 3, "it is decided, nothing is held");
    desk.report("a", &job, 0, saved(2, 0));
    desk.report("b", &job, 1, saved(2, 1));
    desk.written(&job, 1, 2, None);
    assert_eq!(desk.view(&job).failed_saves, 0);
}

#[test]
fn an_older_checkpoint_that_cant_be_completed_is_given_up() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.report("a", &job, 0, saved(1, 0));
    desk.report("a", &job, 0, saved(2, 0));
    desk.report("b", &job, 1, saved(2, 1));
    desk.written(&job, 1, 2, None);
    assert_eq!(desk.acknowledged("a"), 4);
}

#[test]
fn a_part_that_comes_late_is_waited_for_by_nobody() {
    // Rank 1 says of step 1 what it should have said before step 2: nobody may wait for the other part, which was
    // forgotten.
    let disk_full = |step| Report::SaveFailed {
        step,
        message: "disk full".to_owned(),
    };
    for late in [saved(1, 1), disk_full(1)] {
        let mut desk = Desk::new();
        let job = desk.saving(2);
        desk.report("a", &job, 0, saved(1, 0));
        desk.report("a", &job, 0, Report::Step(step(2)));
        desk.report("a", &job, 0, saved(2, 0));
        desk.report("b", &job, 1, saved(2, 1));
        desk.report("b", &job, 1, late);
        assert_eq!(desk.acknowledged("b"), 1, "step 2 is still being committed");
        desk.report("a", &job, 0, Report::Finished);
        desk.report("b", &job, 1, Report::Finished);
        desk.written(&job, 1, 2, None);
        assert_eq!(desk.view(&job).state, JobState::Succeeded);
        assert_eq!((desk.acknowledged("a"), desk.acknowledged("b")), (6, 4));
    }
}

/// Both ranks have saved these steps.
fn saved_by_both(desk: &mut Desk, job: &rekindle_types::JobId, steps: std::ops::RangeInclusive<u64>) {
    for at in steps {
        desk.report("a", job, 0, saved(at, 0));
        desk.report("b", job, 1, saved(at, 1));
    }
}

/// The steps whose manifests were to be written, in order.
fn ordered(desk: &Desk) -> Vec<u64> {
    desk.commits().iter().map(|commit| commit.step).collect()
}

#[test]
fn one_checkpoint_is_committed_at_a_time_and_the_next_in_order() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    saved_by_both(&mut desk, &job, 1..=3);
    assert_eq!(ordered(&desk), [1]);
    desk.written(&job, 1, 1, Some("the store is away"));
    assert_eq!(ordered(&desk), [1, 2], "one that fails makes room, too");
    desk.written(&job, 1, 2, None);
    desk.written(&job, 1, 3, None);
    assert_eq!(ordered(&desk), [1, 2, 3]);
    assert_eq!(desk.view(&job).checkpoint.map(|found| found.step), Some(3));
}

#[test]
fn a_store_that_is_slower_than_training_passes_over_what_it_would_delete_at_once() {
    const LAST: u64 = 1_000;
    let mut desk = Desk::new();
    let mut spec = saving_spec(LAST);
    spec.checkpoint.keep_last = 2;
    let job = desk.training_of(spec);
    saved_by_both(&mut desk, &job, 1..=LAST);
    desk.report("a", &job, 0, Report::Step(step(LAST)));
    desk.report("a", &job, 0, Report::Finished);
    desk.report("b", &job, 1, Report::Finished);
    let before = desk.acknowledged("b");
    desk.written(&job, 1, 1, None);
    assert!(
        desk.acknowledged("b") >= before + LAST - 3,
        "what is passed over is acknowledged"
    );
    desk.written(&job, 1, LAST - 1, None);
    assert_eq!(
        desk.view(&job).state,
        JobState::Running,
        "the last one is being written"
    );
    desk.written(&job, 1, LAST, None);
    assert_eq!(ordered(&desk), [1, LAST - 1, LAST]);
    let view = desk.view(&job);
    assert_eq!((view.state, view.failed_saves), (JobState::Succeeded, 0));
}

#[test]
fn commits_that_end_one_after_the_other_are_no_hang() {
    let mut desk = Desk::new();
    let job = desk.saving(3);
    desk.report("a", &job, 0, Report::Step(step(3)));
    saved_by_both(&mut desk, &job, 1..=3);
    desk.report("a", &job, 0, Report::Finished);
    desk.report("b", &job, 1, Report::Finished);
    for at in 1..=3 {
        desk.wait(240_000, &["a", "b"]);
        desk.written(&job, 1, at, None);
    }
    assert_eq!(desk.view(&job).state, JobState::Succeeded);
}

#[test]
fn a_lost_trainer_takes_no_checkpoint_with_it_that_has_all_its_parts() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    saved_by_both(&mut desk, &job, 1..=2);
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    desk.report("a", &job, 0, Report::Stopped);
    let orders = desk.effects.iter().filter_map(|effect| match effect {
        Effect::CommitCheckpoint(commit) => Some(commit.step),
        Effect::FindStart { .. } => Some(0),
        _ => None,
    });
    // The first search is that of the first plan.
    let orders: Vec<u64> = orders.skip_while(|step| *step == 0).collect();
    assert_eq!(orders, [1, 2, 0], "before anybody looks for what to start from");
}

#[test]
fn too_many_failures_in_a_row_stop_the_job_that_wants_it() {
    let mut desk = Desk::new();
    let mut spec = saving_spec(9);
    spec.checkpoint.max_failures = 2;
    let job = desk.training_of(spec);
    for at in [1, 2] {
        assert_eq!(desk.view(&job).state, JobState::Running);
        desk.report("a", &job, 0, saved(at, 0));
        desk.report("b", &job, 1, saved(at, 1));
        desk.written(&job, 1, at, Some("no such bucket"));
    }
    let verdict = desk.verdict(&job);
    assert_eq!(verdict.class, FailureClass::CheckpointIo);
    assert!(verdict.message.contains("no such bucket"), "{}", verdict.message);
}

#[test]
fn a_job_succeeds_only_with_its_last_checkpoint() {
    for error in [None, Some("quota")] {
        let mut desk = Desk::new();
        let job = desk.saving(1);
        desk.report("a", &job, 0, saved(1, 0));
        desk.report("b", &job, 1, saved(1, 1));
        desk.report("a", &job, 0, Report::Finished);
        desk.report("b", &job, 1, Report::Finished);
        assert_eq!(
            desk.view(&job).state,
            JobState::Running,
            "its manifest isn't durable"
        );
        desk.written(&job, 1, 1, error);
        match error {
            None => assert_eq!(desk.view(&job).state, JobState::Succeeded),
            Some(why) => {
                let verdict = desk.verdict(&job);
                assert_eq!(verdict.class, FailureClass::CheckpointIo);
                assert!(verdict.message.contains(why), "{}", verdict.message);
            }
        }
    }
}

#[test]
fn cancel_saves_first_unless_told_not_to() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.cancel(&job, CancelMode::Graceful).expect("it is taken");
    assert_eq!(desk.orders(), ["save a"]);
    desk.report("a", &job, 0, Report::Step(step(2)));
    desk.report("a", &job, 0, saved(2, 0));
    desk.report("b", &job, 1, saved(2, 1));
    assert_eq!(desk.orders(), [""; 0]);
    desk.written(&job, 1, 2, None);
    assert_eq!(desk.orders(), ["stop a", "stop b"]);
    desk.report("a", &job, 0, Report::Stopped);
    desk.report("b", &job, 1, Report::Stopped);
    let view = desk.view(&job);
    assert_eq!(
        (view.state, view.checkpoint.map(|c| c.step)),
        (JobState::Cancelled, Some(2))
    );

    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.cancel(&job, CancelMode::Stop).expect("it is taken");
    assert_eq!(desk.orders(), ["stop a", "stop b"]);
}

#[test]
fn a_cancelled_job_doesnt_wait_for_ever_to_be_saved() {
    // Time runs out; a trainer dies; the save fails; the user asks again.
    for what in 0..4 {
        let mut desk = Desk::new();
        let job = desk.saving(9);
        desk.cancel(&job, CancelMode::Graceful).expect("it is taken");
        desk.orders();
        match what {
            0 => desk.wait(61_000, &["a", "b"]),
            1 => desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash))),
            2 => {
                let message = "disk full".to_owned();
                desk.report("b", &job, 1, Report::SaveFailed { step: 2, message });
            }
            _ => drop(desk.cancel(&job, CancelMode::Stop).expect("it is taken")),
        }
        let orders = desk.orders();
        assert!(orders.contains(&"stop a".to_owned()), "{what}: {orders:?}");
        desk.report("a", &job, 0, Report::Stopped);
        desk.report("b", &job, 1, Report::Stopped);
        assert_eq!(desk.view(&job).state, JobState::Cancelled, "{what}");
    }
}

#[test]
fn a_checkpoint_that_failed_before_isnt_the_one_that_a_cancel_waits_for() {
    let failed = |step| Report::SaveFailed {
        step,
        message: "disk full".to_owned(),
    };
    // It failed before the cancel, or was under way and fails after it.
    for before in [true, false] {
        let mut desk = Desk::new();
        let job = desk.saving(9);
        if before {
            desk.report("b", &job, 1, failed(1));
        }
        desk.cancel(&job, CancelMode::Graceful).expect("it is taken");
        if !before {
            desk.report("b", &job, 1, failed(1));
        }
        desk.wait(1_000, &["a", "b"]);
        assert_eq!(desk.orders(), ["save a"], "{before}: it still waits");
        desk.report("a", &job, 0, saved(2, 0));
        desk.report("b", &job, 1, saved(2, 1));
        desk.written(&job, 1, 2, None);
        assert_eq!(desk.orders(), ["stop a", "stop b"]);
        assert_eq!(desk.view(&job).checkpoint.map(|c| c.step), Some(2));
    }
}

#[test]
fn a_lost_trainer_takes_all_ranks_back_to_the_newest_checkpoint() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.found = Ok(Some(start(4)));
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    let view = desk.view(&job);
    assert_eq!((view.state, view.restarts), (JobState::Recovering, 1));
    assert_eq!(desk.orders(), ["halt a"]);
    desk.report("a", &job, 0, Report::Stopped);
    let commands = desk.commands();
    let starts: Vec<_> = commands
        .iter()
        .filter_map(|(worker, command)| match command {
            Command::Start(order) => Some((worker.as_str(), order.plan.epoch, order.start.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(
        starts,
        [("a", Epoch(2), Some(start(4))), ("b", Epoch(2), Some(start(4)))]
    );
    let writers =
        desk.changes(|change| matches!(change, Change::Planned { writer, .. } if writer.contains("-e2-")));
    assert_eq!(writers, 1, "files of the new epoch have keys of their own");
    desk.report_as("a", 90, &job, 1, 0, saved(1, 0));
    assert!(desk.commits().is_empty(), "parts of the old epoch are of no use");
}

#[test]
fn a_recovering_job_waits_for_the_slots_it_had_then_goes_on_with_fewer() {
    let mut desk = Desk::new();
    let mut spec = saving_spec(9);
    spec.parallelism.pipeline = rekindle_types::spec::Auto::Auto;
    let job = desk.training_of(spec);
    desk.lose("b");
    desk.wait(8_500, &["a"]);
    assert_eq!(desk.view(&job).state, JobState::Recovering);
    desk.report("a", &job, 0, Report::Stopped);
    assert!(!desk.orders().iter().any(|order| order.starts_with("start")));
    desk.wait(11_000, &["a"]);
    assert_eq!(desk.orders(), ["start a 0"], "one stage on what is there");
}

#[test]
fn a_damaged_checkpoint_isnt_tried_again() {
    let mut desk = Desk::new();
    desk.found = Ok(Some(start(4)));
    desk.register("a", 1, 1, vec![]);
    desk.register("b", 1, 1, vec![]);
    let job = desk.job(saving_spec(9));
    desk.effects.clear();
    desk.report(
        "a",
        &job,
        0,
        Report::Failed(failure(FailureClass::CheckpointCorrupt)),
    );
    desk.report("b", &job, 1, Report::Stopped);
    let (search, refused) = searched(&desk);
    assert_eq!(search, StartSearch::Again);
    assert!(refused.contains(&start(4).url));
}

#[test]
fn the_step_of_a_damaged_checkpoint_is_committed_anew_and_then_it_counts() {
    let mut desk = Desk::new();
    desk.found = Ok(Some(start(4)));
    desk.register("a", 1, 1, vec![]);
    desk.register("b", 1, 1, vec![]);
    let job = desk.job(saving_spec(9));
    desk.found = Ok(Some(start(2)));
    lose(&mut desk, &job, 1, FailureClass::CheckpointCorrupt);
    for (name, rank) in [("a", 0), ("b", 1)] {
        desk.report_of(name, &job, 2, rank, ready(rank));
    }
    for (name, rank) in [("a", 0), ("b", 1)] {
        desk.report_of(name, &job, 2, rank, saved(4, rank));
    }
    let commit = desk.commits().pop().expect("all parts are there");
    assert!(commit.refused.contains(&start(4).url), "it makes way");
    desk.written(&job, 2, 4, None);
    desk.effects.clear();
    lose(&mut desk, &job, 2, FailureClass::WorkerCrash);
    assert!(!searched(&desk).1.contains(&start(4).url));
}

/// Both ranks of an epoch are gone, the first by a failure.
fn lose(desk: &mut Desk, job: &rekindle_types::JobId, epoch: u64, class: FailureClass) {
    let failed = Report::Failed(failure(class));
    desk.report_of("a", job, epoch, 0, failed);
    desk.report_of("b", job, epoch, 1, Report::Stopped);
}

fn ready(rank: u32) -> Report {
    Report::Ready {
        data_address: format!("h:{rank}"),
        in_memory: rekindle_types::InMemory::default(),
    }
}

/// How a state to start from was looked for last, and which checkpoints don't count.
fn searched(desk: &Desk) -> (StartSearch, std::collections::BTreeSet<String>) {
    let asked = desk.effects.iter().rev().find_map(|effect| match effect {
        Effect::FindStart { search, refused, .. } => Some((*search, refused.clone())),
        _ => None,
    });
    asked.expect("a state is looked for")
}

#[test]
fn a_job_that_goes_on_outlasts_a_store_that_is_away() {
    for comes_back in [true, false] {
        let mut desk = Desk::new();
        let job = desk.saving(9);
        desk.found = Err(NotFound {
            message: "s3://b/a doesn't answer".to_owned(),
            passes: true,
        });
        desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
        desk.report("a", &job, 0, Report::Stopped);
        desk.wait(60_000, &["a", "b"]);
        let asked = desk.changes(
            |change| matches!(change, Change::Noted { kind, .. } if kind == "checkpoint.unreachable"),
        );
        assert!((5..9).contains(&asked), "{asked}: every ten seconds");
        assert_eq!(desk.view(&job).state, JobState::Recovering);
        if comes_back {
            desk.found = Ok(Some(start(1)));
            desk.wait(10_000, &["a", "b"]);
            assert_eq!(desk.view(&job).state, JobState::Starting);
        } else {
            desk.wait(1_800_000, &["a", "b"]);
            let verdict = desk.verdict(&job);
            assert_eq!(verdict.class, FailureClass::CheckpointIo);
            assert!(verdict.message.contains("s3://b/a"), "{}", verdict.message);
        }
    }
}

#[test]
fn a_job_that_isnt_about_to_go_on_hears_at_once_that_its_store_is_away() {
    let mut desk = Desk::new();
    desk.found = Err(NotFound {
        message: "s3://b/a doesn't answer".to_owned(),
        passes: true,
    });
    desk.register("a", 1, 1, vec![]);
    desk.register("b", 1, 1, vec![]);
    let job = desk.job(saving_spec(9));
    assert_eq!(desk.verdict(&job).class, FailureClass::CheckpointIo);
}

#[test]
fn waiting_for_storage_is_no_hang_and_its_end_is() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    for _ in 0..30 {
        desk.wait(10_000, &["a", "b"]);
        desk.report("b", &job, 1, Report::WaitsForStorage { step: 2 });
    }
    assert_eq!(desk.view(&job).state, JobState::Running);
    let told =
        desk.changes(|change| matches!(change, Change::Noted { kind, .. } if kind == "checkpoint.slow"));
    assert_eq!(told, 1, "once for a step");
    desk.wait(62_000, &["a", "b"]);
    let hung = desk.changes(
        |change| matches!(change, Change::Requeued { failure, .. } if failure.class == FailureClass::Hang),
    );
    assert_eq!(hung, 1, "nobody waits any more, and nothing happens");
}

#[test]
fn restarts_without_a_checkpoint_in_between_are_bounded() {
    let mut desk = Desk::new();
    let mut spec = saving_spec(9);
    spec.recovery.max_restarts = 1;
    let job = desk.training_of(spec);
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    desk.report("a", &job, 0, Report::Stopped);
    desk.report_as(
        "a",
        50,
        &job,
        2,
        0,
        Report::Failed(failure(FailureClass::WorkerCrash)),
    );
    let verdict = desk.verdict(&job);
    assert!(
        verdict.message.contains("recovery.max_restarts"),
        "{}",
        verdict.message
    );
}

#[test]
fn a_class_of_failures_has_a_budget_of_its_own_beside_the_sum() {
    let mut desk = Desk::new();
    let mut spec = saving_spec(9);
    spec.recovery.max_restarts = 4;
    spec.recovery.max_restarts_of = [(FailureClass::WorkerCrash, 1), (FailureClass::Hang, 0)].into();
    let job = desk.training_of(spec);
    let used = |desk: &Desk| -> Vec<_> {
        let budgets = desk.view(&job).budgets.into_iter();
        budgets
            .map(|budget| (budget.class, budget.used, budget.most))
            .collect()
    };
    let lose = |desk: &mut Desk, epoch, class| {
        desk.report_of("b", &job, epoch, 1, Report::Failed(failure(class)));
        desk.wait(2_000, &["a", "b"]);
        desk.report_of("a", &job, epoch, 0, Report::Stopped);
        desk.wait(2_000, &["a", "b"]);
    };
    lose(&mut desk, 1, FailureClass::WorkerCrash);
    lose(&mut desk, 2, FailureClass::Network);
    let crash = Some(FailureClass::WorkerCrash);
    assert_eq!(
        used(&desk),
        [(crash, 1, 1), (Some(FailureClass::Hang), 0, 0), (None, 2, 4)]
    );
    // The journal has the counts, and progress that lasts ends them.
    let mut desk = desk.restart();
    assert_eq!(
        used(&desk),
        [(crash, 1, 1), (Some(FailureClass::Hang), 0, 0), (None, 2, 4)]
    );
    for (name, rank) in [("a", 0), ("b", 1)] {
        desk.register(name, 1, 1, vec![status(&job, 3, rank, TrainerPhase::Training)]);
    }
    for (name, rank) in [("a", 0), ("b", 1)] {
        desk.report_of(name, &job, 3, rank, saved(1, rank));
    }
    desk.written(&job, 3, 1, None);
    assert_eq!(used(&desk)[2], (None, 0, 4));
    lose(&mut desk, 3, FailureClass::WorkerCrash);
    assert_eq!(used(&desk)[0], (crash, 1, 1));
    lose(&mut desk, 4, FailureClass::WorkerCrash);
    let verdict = desk.verdict(&job);
    for part in [
        "restarted once after a WORKER_CRASH",
        "recovery.max_restarts_of.WORKER_CRASH = 1",
    ] {
        assert!(verdict.message.contains(part), "{part}: {}", verdict.message);
    }
}

#[test]
fn a_class_without_any_budget_fails_the_job_at_once() {
    let mut desk = Desk::new();
    let mut spec = saving_spec(9);
    spec.recovery.max_restarts_of = [(FailureClass::WorkerCrash, 0)].into();
    let job = desk.training_of(spec);
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    let verdict = desk.verdict(&job);
    assert!(
        verdict
            .message
            .contains("recovery.max_restarts_of.WORKER_CRASH = 0"),
        "{}",
        verdict.message
    );
}

#[test]
fn what_would_only_come_again_isnt_tried_again() {
    for class in [
        FailureClass::NumericNan,
        FailureClass::DataError,
        FailureClass::ConfigInvalid,
    ] {
        let mut desk = Desk::new();
        let job = desk.saving(9);
        desk.report("b", &job, 1, Report::Failed(failure(class)));
        assert_eq!(desk.verdict(&job).class, class);
    }
}

#[test]
fn a_worker_that_is_asked_to_leave_is_saved_and_left() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    let session = desk.register("b", 1, 1, vec![status(&job, 1, 1, TrainerPhase::Training)]);
    desk.orders();
    let grace = 20_000;
    desk.tell(Event::WorkerDraining { session, grace });
    assert_eq!(desk.orders(), ["save a"]);
    desk.report("a", &job, 0, saved(1, 0));
    desk.report("b", &job, 1, saved(1, 1));
    desk.written(&job, 1, 1, None);
    let going_on = desk.view(&job).state;
    assert_eq!(going_on, JobState::Running, "that one was under way before");
    desk.report("a", &job, 0, saved(2, 0));
    desk.report("b", &job, 1, saved(2, 1));
    desk.written(&job, 1, 2, None);
    assert_eq!(desk.view(&job).state, JobState::Recovering);
    assert_eq!(desk.orders(), ["halt a", "stop b"]);
    desk.report("a", &job, 0, Report::Stopped);
    desk.report("b", &job, 1, Report::Stopped);
    assert!(
        desk.machine
            .free_slots()
            .iter()
            .all(|slot| slot.worker.as_str() == "a")
    );
}

#[test]
fn a_run_that_goes_on_has_a_newer_epoch_than_the_one_before() {
    let mut desk = Desk::new();
    desk.found = Ok(Some(start(4)));
    desk.after_epoch = Epoch(6);
    desk.register("a", 1, 1, vec![]);
    desk.register("b", 1, 1, vec![]);
    let job = desk.job(saving_spec(9));
    assert_eq!(desk.view(&job).epoch, Epoch(7));
}

#[test]
fn a_job_that_must_go_on_but_has_nothing_to_go_on_from_says_so() {
    let mut desk = Desk::new();
    desk.found = Err(NotFound::lasting("there is no checkpoint in runs/j/checkpoints"));
    desk.register("a", 1, 1, vec![]);
    desk.register("b", 1, 1, vec![]);
    let job = desk.job(saving_spec(9));
    let verdict = desk.verdict(&job);
    assert!(verdict.message.contains("no checkpoint"), "{}", verdict.message);
}
