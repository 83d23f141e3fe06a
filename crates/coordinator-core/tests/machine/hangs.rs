//! Gangs that stand still: the rank is named at which it begins, not the ones that wait, and no step is too long that
//! makes progress.

use rekindle_coordinator_core::{Change, Config};
use rekindle_types::{Failure, FailureClass, JobId, JobState, RankId, Report, Wait, Watermark};

use crate::desk::{Desk, spec, step, worker};

/// A job of four stages on four workers a, b, c, d that has committed two steps.
fn four(config: Config) -> (Desk, JobId) {
    let mut desk = Desk::with(config);
    for name in NAMES {
        desk.register(name, 1, 1, vec![]);
    }
    let job = desk.job(spec(4, 99));
    for (rank, name) in (0..).zip(NAMES) {
        desk.ready(name, &job, rank);
    }
    desk.report("a", &job, 0, Report::Step(step(1)));
    desk.wait(100, &NAMES);
    desk.report("a", &job, 0, Report::Step(step(2)));
    desk.effects.clear();
    (desk, job)
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Rank `rank` is at step 3, after so many passes, and waits.
fn says(desk: &mut Desk, job: &JobId, rank: u32, passes: u64, on: Option<u32>) {
    let wait = |on| Wait {
        on: RankId(on),
        what: "a frame".to_owned(),
        ms: 2_000,
    };
    let mark = Watermark {
        step: 3,
        passes,
        waits: on.map(wait),
    };
    let name = NAMES[rank as usize];
    desk.report(name, job, rank, Report::Watermark(mark));
}

/// For so many seconds these ranks say every 3 s that they wait for those.
fn lasts(desk: &mut Desk, job: &JobId, seconds: u64, waits: &[(u32, Option<u32>)]) {
    for _ in 0..seconds / 3 {
        for (rank, on) in waits {
            if desk.view(job).state == JobState::Running {
                says(desk, job, *rank, 8, *on);
            }
        }
        desk.wait(3_000, &NAMES);
    }
}

fn place(failure: &Failure) -> (FailureClass, Option<u32>, Option<String>) {
    let worker = failure.worker.as_ref().map(ToString::to_string);
    (failure.class, failure.rank.map(|rank| rank.0), worker)
}

#[test]
fn a_stopped_trainer_is_named_by_its_silence_and_not_those_that_wait_for_it() {
    let (mut desk, job) = four(Config::default());
    // Rank 1 stands still. Nobody else speaks at first either.
    desk.wait(5_000, &NAMES);
    lasts(&mut desk, &job, 12, &[(0, Some(1)), (2, Some(1)), (3, Some(2))]);
    assert_eq!(
        desk.view(&job).state,
        JobState::Running,
        "it may only be slow to speak"
    );
    lasts(&mut desk, &job, 9, &[(0, Some(1)), (2, Some(1)), (3, Some(2))]);
    let verdict = desk.verdict(&job);
    assert_eq!(
        place(&verdict),
        (FailureClass::Hang, Some(1), Some("b".to_owned()))
    );
    for part in [
        "rank 3 waits for rank 2, which waits for rank 1 (a frame)",
        "rank 1 has said nothing for 20",
        "stands still",
    ] {
        assert!(verdict.message.contains(part), "{part}: {}", verdict.message);
    }
}

#[test]
fn it_is_found_though_heartbeats_leave_no_pause_in_which_nothing_happens() {
    let (mut desk, job) = four(Config::default());
    // As a shell does it: a tick when the deadline is over that was known after the last event.
    for beat in 0..160 {
        desk.now += 150;
        desk.beat(NAMES[beat % 4]);
        while desk.machine.next_deadline().is_some_and(|at| at <= desk.now) {
            desk.tell(rekindle_coordinator_core::Event::Tick);
        }
    }
    assert_eq!(place(&desk.verdict(&job)).0, FailureClass::Hang);
}

#[test]
fn a_trainer_that_waited_before_it_was_stopped_is_named_all_the_same() {
    let (mut desk, job) = four(Config::default());
    desk.wait(5_000, &NAMES);
    // Rank 1 was heard to wait for rank 2; then it was stopped, and rank 2 went on until it needed rank 1.
    says(&mut desk, &job, 1, 3, Some(2));
    lasts(&mut desk, &job, 30, &[(0, Some(1)), (2, Some(1)), (3, Some(2))]);
    assert_eq!(place(&desk.verdict(&job)).1, Some(1));
}

#[test]
fn of_several_silent_trainers_the_one_counts_that_others_wait_for() {
    let (mut desk, job) = four(Config::default());
    desk.wait(5_000, &NAMES);
    lasts(&mut desk, &job, 30, &[(1, Some(2)), (3, Some(2))]);
    assert_eq!(place(&desk.verdict(&job)).1, Some(2), "rank 0 is silent as well");
}

#[test]
fn a_trainer_that_is_heard_and_does_not_get_on_is_named_when_the_step_is_overdue() {
    let (mut desk, job) = four(Config::default());
    let stuck = [(0, Some(1)), (1, None), (2, Some(1)), (3, Some(2))];
    lasts(&mut desk, &job, 57, &stuck);
    assert_eq!(desk.view(&job).state, JobState::Running);
    lasts(&mut desk, &job, 9, &stuck);
    let verdict = desk.verdict(&job);
    assert_eq!(
        place(&verdict),
        (FailureClass::Hang, Some(1), Some("b".to_owned()))
    );
    for part in [
        "after step 2",
        "which waits for rank 1",
        "rank 1 is heard of",
        "after 8 passes",
    ] {
        assert!(verdict.message.contains(part), "{part}: {}", verdict.message);
    }
}

#[test]
fn ranks_that_wait_in_a_circle_are_told_as_a_defect_and_none_is_blamed() {
    let (mut desk, job) = four(Config::default());
    let circle = [(0, Some(1)), (1, Some(2)), (2, Some(1)), (3, Some(2))];
    lasts(&mut desk, &job, 66, &circle);
    let verdict = desk.verdict(&job);
    assert_eq!(place(&verdict), (FailureClass::Hang, None, None));
    let story = "rank 1 waits for rank 2, which waits for rank 1: a circle, which is a defect";
    assert!(verdict.message.contains(story), "{}", verdict.message);
}

#[test]
fn no_step_is_too_long_while_somebody_gets_on() {
    let (mut desk, job) = four(Config::default());
    for passes in 0..400 {
        // The last stage computes, for an hour; the others wait for it.
        for rank in 0..3 {
            says(&mut desk, &job, rank, 8, Some(rank + 1));
        }
        says(&mut desk, &job, 3, passes, None);
        desk.wait(9_000, &NAMES);
    }
    assert_eq!(desk.view(&job).state, JobState::Running);
    lasts(
        &mut desk,
        &job,
        66,
        &[(0, Some(1)), (1, Some(2)), (2, Some(3)), (3, None)],
    );
    assert_eq!(place(&desk.verdict(&job)).1, Some(3));
}

#[test]
fn steps_may_take_longer_than_any_limit_of_the_config() {
    let (mut desk, job) = four(Config::default());
    let alive = [(0, None), (1, None), (2, None), (3, None)];
    let mut passes = 8;
    for number in 3..5 {
        // Of each step the longest that nobody gets on grows.
        for seconds in [57, 57, 57, 57] {
            passes += 1;
            says(&mut desk, &job, 0, passes, None);
            lasts(&mut desk, &job, seconds * (number - 2), &alive);
            assert_eq!(desk.view(&job).state, JobState::Running, "step {number}");
        }
        desk.report("a", &job, 0, Report::Step(step(number)));
    }
    lasts(&mut desk, &job, 1_350, &alive);
    assert_eq!(
        desk.view(&job).state,
        JobState::Running,
        "not yet three times the slowest"
    );
    lasts(&mut desk, &job, 60, &alive);
    assert_eq!(desk.verdict(&job).class, FailureClass::Hang);
}

#[test]
fn a_stopped_worker_is_lost_and_its_trainers_are_not_blamed_for_its_silence() {
    let (mut desk, job) = four(Config::default());
    desk.wait(5_000, &NAMES);
    for _ in 0..5 {
        if desk.view(&job).state == JobState::Running {
            says(&mut desk, &job, 0, 8, Some(1));
        }
        desk.wait(3_000, &["a", "c", "d"]);
    }
    let verdict = desk.verdict(&job);
    assert_eq!(
        place(&verdict),
        (FailureClass::WorkerLost, Some(1), Some("b".to_owned()))
    );
}

#[test]
fn a_worker_that_was_cut_off_is_not_blamed_before_it_had_time_to_pass_on_what_its_trainers_said() {
    let (mut desk, job) = four(Config::default());
    let others = ["a", "c", "d"];
    let waiting = [(0, Some(1)), (2, Some(1)), (3, Some(2))];
    lasts(&mut desk, &job, 15, &waiting);
    desk.lose("b");
    desk.wait(7_000, &others);
    let status = crate::desk::status(&job, 1, 1, rekindle_types::TrainerPhase::Training);
    desk.register("b", 1, 1, vec![status]);
    lasts(&mut desk, &job, 6, &waiting);
    assert_eq!(desk.view(&job).state, JobState::Running, "28 s without a word");
    says(&mut desk, &job, 1, 9, None);
    lasts(&mut desk, &job, 15, &waiting);
    assert_eq!(desk.view(&job).state, JobState::Running);
}

/// The step may be committed, and the word of it on the way.
#[test]
fn no_step_is_overdue_while_a_worker_is_not_heard_of() {
    for breaks in [true, false] {
        let (mut desk, job) = four(crate::desk::config());
        desk.wait(55_000, &NAMES);
        if breaks {
            desk.lose("a");
        }
        desk.wait(7_000, &NAMES[1..]);
        if breaks {
            let status = crate::desk::status(&job, 1, 0, rekindle_types::TrainerPhase::Training);
            desk.register("a", 1, 1, vec![status]);
        }
        desk.report("a", &job, 0, Report::Step(step(3)));
        desk.wait(5_000, &NAMES);
        assert_eq!(desk.view(&job).state, JobState::Running, "{breaks}");
        let noted = |change: &Change| matches!(change, Change::FailureNoted { .. });
        assert_eq!(desk.changes(noted), 0, "{breaks}");
        desk.wait(400_000, &NAMES);
        assert!(desk.changes(noted) > 0, "all are heard of, and nothing comes");
    }
}

/// They may wait for its trainer, which never heard whom to connect to.
#[test]
fn nobody_is_silent_while_a_worker_is_not_heard_of() {
    let (mut desk, job) = four(Config::default());
    desk.wait(15_000, &NAMES);
    desk.wait(8_000, &NAMES[..3]);
    let noted = |change: &Change| matches!(change, Change::FailureNoted { .. });
    assert_eq!(desk.changes(noted), 0);
    desk.wait(4_000, &NAMES[..3]);
    assert_eq!(place(&desk.verdict(&job)).0, FailureClass::WorkerLost);
}

#[test]
fn a_clock_that_is_set_makes_nobody_silent() {
    for jump in [-3_600_000_i64, 3_600_000] {
        let (mut desk, job) = four(Config::default());
        desk.wait(5_000, &NAMES);
        for _ in 0..3 {
            desk.now = desk.now.checked_add_signed(jump).expect("a time");
            for rank in 0..4 {
                says(&mut desk, &job, rank, 8, None);
            }
            desk.wait(3_000, &NAMES);
        }
        assert_eq!(desk.view(&job).state, JobState::Running, "{jump}");
    }
}

#[test]
fn the_only_rank_of_a_job_is_named() {
    let mut desk = Desk::with(Config::default());
    desk.register("a", 1, 1, vec![]);
    let job = desk.job(spec(1, 9));
    desk.ready("a", &job, 0);
    desk.report("a", &job, 0, Report::Step(step(1)));
    desk.wait(23_000, &["a"]);
    let verdict = desk.verdict(&job);
    assert_eq!(
        place(&verdict),
        (FailureClass::Hang, Some(0), Some(worker("a").to_string()))
    );
}

#[test]
fn watermarks_of_a_job_that_is_being_cancelled_do_not_disturb_the_saving_of_its_state() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.cancel(&job, rekindle_coordinator_core::CancelMode::Graceful)
        .expect("it is taken");
    assert_eq!(desk.orders(), ["save a"]);
    says(&mut desk, &job, 1, 3, Some(0));
    assert_eq!(desk.orders(), [""; 0], "nobody is stopped yet");
    assert_eq!(desk.machine.stats().stale_reports, 0);
}
