//! Going on from what trainers left in their workers' memory.

use rekindle_coordinator_core::{Change, Effect};
use rekindle_types::spec::{Auto, Cadence, RecoverySource};
use rekindle_types::{
    Command, Epoch, FailureClass, InMemory, JobId, JobSpec, JobState, RankId, Refill, Report, StateSource,
    TrainerPhase,
};

use crate::desk::{Desk, failure, id, memory_spec, saving_spec, spec, status, step};

/// Rank 1 dies after `last` steps; the job waits for its trainers, then all that is left is stopped.
fn crash(desk: &mut Desk, job: &JobId, epoch: u64, last: u64) {
    for at in 2..=last {
        desk.report_of("a", job, epoch, 0, Report::Step(step(at)));
    }
    let crashed = Report::Failed(failure(FailureClass::WorkerCrash));
    desk.report_of("b", job, epoch, 1, crashed);
    desk.report_of("a", job, epoch, 0, Report::Stopped);
}

pub fn ready(desk: &mut Desk, name: &str, job: &JobId, epoch: u64, rank: u32, in_memory: &[u64]) {
    let report = Report::Ready {
        data_address: format!("h:{rank}"),
        in_memory: InMemory::own(in_memory),
    };
    desk.report_of(name, job, epoch, rank, report);
}

/// What every rank was told to start from.
fn connects(desk: &mut Desk) -> Vec<(String, Option<u64>, bool)> {
    let told = |(worker, command)| match command {
        Command::Connect { from, .. } => Some((worker, from.step, from.save)),
        _ => None,
    };
    desk.commands().into_iter().filter_map(told).collect()
}

fn both(local: Option<u64>, save: bool) -> Vec<(String, Option<u64>, bool)> {
    vec![("a".to_owned(), local, save), ("b".to_owned(), local, save)]
}

#[test]
fn all_ranks_go_on_from_the_newest_step_that_all_have() {
    let mut desk = Desk::new();
    let job = desk.training_of(memory_spec(9));
    crash(&mut desk, &job, 1, 5);
    assert_eq!(
        desk.orders(),
        ["halt a", "start a 0", "start b 1"],
        "at once, where they were"
    );
    ready(&mut desk, "a", &job, 2, 0, &[6, 5]);
    ready(&mut desk, "b", &job, 2, 1, &[5, 4]);
    assert_eq!(connects(&mut desk), both(Some(5), false));
    desk.report_of("a", &job, 2, 0, Report::Step(step(6)));
    let view = desk.view(&job);
    assert_eq!((view.state, view.epoch), (JobState::Running, Epoch(2)));
    let incident = desk
        .machine
        .incidents(&job)
        .expect("it is known")
        .pop()
        .expect("there is one");
    assert_eq!(incident.source, Some(StateSource::Local));
    assert_eq!(
        (incident.resumed_step, incident.steps_again()),
        (Some(5), Some(0))
    );
    assert!(
        incident.decision.contains("step 5 in memory"),
        "{}",
        incident.decision
    );
}

#[test]
fn a_step_that_was_never_reported_is_run_again_so_that_its_line_is_written() {
    let mut desk = Desk::new();
    let job = desk.training_of(memory_spec(9));
    crash(&mut desk, &job, 1, 5);
    desk.orders();
    ready(&mut desk, "a", &job, 2, 0, &[6, 5]);
    ready(&mut desk, "b", &job, 2, 1, &[6, 5]);
    assert_eq!(connects(&mut desk), both(Some(5), false));
}

#[test]
fn reports_that_were_lost_with_a_worker_are_written_when_they_are_told_again() {
    let mut desk = Desk::new();
    let job = desk.training_of(memory_spec(9));
    crash(&mut desk, &job, 1, 3);
    ready(&mut desk, "a", &job, 2, 0, &[6, 5]);
    ready(&mut desk, "b", &job, 2, 1, &[6, 5]);
    assert_eq!(connects(&mut desk), both(Some(6), false), "nobody has step 3");
    // Two workers have lines, none all of them, and the newer ones come first.
    for told in 5..=6 {
        desk.report_of("b", &job, 2, 1, Report::Step(step(told)));
    }
    for told in 2..=5 {
        desk.report_of("a", &job, 2, 0, Report::Step(step(told)));
    }
    let written = |desk: &mut Desk| -> Vec<u64> {
        let lines = std::mem::take(&mut desk.effects).into_iter();
        let line = |effect| match effect {
            Effect::AppendMetrics { report, .. } => Some(report.step),
            _ => None,
        };
        lines.filter_map(line).collect()
    };
    assert_eq!(
        written(&mut desk),
        [5, 6, 4],
        "3 was heard, and none is written twice"
    );
    assert_eq!(
        desk.view(&job).state,
        JobState::Starting,
        "no step of this epoch yet"
    );
    desk.report_of("a", &job, 2, 0, Report::Step(step(7)));
    assert_eq!(written(&mut desk), [7]);
    assert_eq!(desk.view(&job).state, JobState::Running);
}

#[test]
fn the_decision_survives_the_coordinator() {
    let mut desk = Desk::new();
    let job = desk.training_of(memory_spec(9));
    crash(&mut desk, &job, 1, 5);
    ready(&mut desk, "a", &job, 2, 0, &[5]);
    ready(&mut desk, "b", &job, 2, 1, &[5]);
    let mut desk = desk.restart();
    // One has gone on already and keeps newer steps; the other never got the order.
    desk.register("a", 1, 1, vec![status(&job, 2, 0, TrainerPhase::Training)]);
    desk.register("b", 1, 1, vec![status(&job, 2, 1, TrainerPhase::Ready)]);
    assert_eq!(connects(&mut desk), [("b".to_owned(), Some(5), false)]);
}

#[test]
fn without_the_state_the_job_is_refused_and_never_begins_again() {
    let mut desk = Desk::new();
    let job = desk.training_of(memory_spec(9));
    crash(&mut desk, &job, 1, 5);
    ready(&mut desk, "a", &job, 2, 0, &[5]);
    ready(&mut desk, "b", &job, 2, 1, &[]);
    let verdict = desk.verdict(&job);
    assert_eq!(verdict.class, FailureClass::WorkerLost);
    assert_eq!(verdict.worker.expect("it is named").as_str(), "b");
    assert!(verdict.message.contains("[checkpoint]"), "{}", verdict.message);
    assert!(connects(&mut desk).is_empty());
}

#[test]
fn a_killed_worker_has_a_while_to_come_back_with_its_memory() {
    let mut desk = Desk::new();
    let job = desk.training_of(memory_spec(9));
    desk.report("a", &job, 0, Report::Step(step(2)));
    desk.lose("b");
    desk.register("b", 2, 1, Vec::new());
    desk.report("a", &job, 0, Report::Stopped);
    desk.orders();
    ready(&mut desk, "a", &job, 2, 0, &[2, 1]);
    ready(&mut desk, "b", &job, 2, 1, &[2, 1]);
    assert_eq!(connects(&mut desk), both(Some(2), false));
}

#[test]
fn a_worker_that_stays_away_fails_the_job_by_name() {
    let mut desk = Desk::new();
    let job = desk.training_of(memory_spec(9));
    desk.lose("b");
    desk.wait(11_000, &["a"]);
    assert_eq!(desk.view(&job).state, JobState::Recovering, "it may come back");
    desk.report("a", &job, 0, Report::Stopped);
    // A spare worker has nothing to go on from.
    desk.register("c", 1, 1, Vec::new());
    assert_eq!(desk.view(&job).state, JobState::Recovering);
    desk.wait(11_000, &["a", "c"]);
    let verdict = desk.verdict(&job);
    assert_eq!(verdict.worker.expect("it is named").as_str(), "b");
}

#[test]
fn a_job_that_may_not_use_memory_goes_back() {
    let mut spec = saving_spec(9);
    spec.recovery.sources = vec![RecoverySource::Checkpoint];
    let mut desk = Desk::new();
    let job = desk.training_of(spec);
    crash(&mut desk, &job, 1, 5);
    ready(&mut desk, "a", &job, 2, 0, &[5]);
    ready(&mut desk, "b", &job, 2, 1, &[5]);
    assert_eq!(connects(&mut desk), both(None, false));
}

/// A job that saves every three steps and goes on from memory at step `at`.
fn saved_again(at: u64, steps: u64) -> bool {
    let mut spec: JobSpec = saving_spec(steps);
    spec.checkpoint.every = Cadence::Steps(3);
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Checkpoint];
    let mut desk = Desk::new();
    let job = desk.training_of(spec);
    crash(&mut desk, &job, 1, at);
    ready(&mut desk, "a", &job, 2, 0, &[at]);
    ready(&mut desk, "b", &job, 2, 1, &[at]);
    let told = connects(&mut desk);
    assert_eq!(told, both(Some(at), told[0].2));
    told[0].2
}

#[test]
fn a_checkpoint_that_was_lost_on_its_way_is_made_up_for() {
    assert!(!saved_again(2, 9), "none was due");
    assert!(saved_again(3, 9), "that of step 3");
    assert!(saved_again(5, 9), "that of step 3, by one of step 5");
    assert!(saved_again(8, 8), "the last");
}

#[test]
fn progress_from_memory_counts_as_progress() {
    let mut spec = memory_spec(100);
    spec.recovery.max_restarts = 2;
    let mut desk = Desk::new();
    let job = desk.training_of(spec);
    for epoch in 1..6 {
        crash(&mut desk, &job, epoch, epoch + 1);
        for (name, rank) in [("a", 0), ("b", 1)] {
            ready(&mut desk, name, &job, epoch + 1, rank, &[epoch + 1]);
        }
        desk.report_of("a", &job, epoch + 1, 0, Report::Step(step(epoch + 2)));
        assert_eq!(desk.view(&job).state, JobState::Running, "after loss {epoch}");
    }
    for epoch in 6..8 {
        crash(&mut desk, &job, epoch, 0);
    }
    crash(&mut desk, &job, 8, 0);
    assert!(desk.verdict(&job).message.contains("max_restarts"));
}

#[test]
fn workers_let_go_of_what_ended_jobs_left() {
    let mut desk = Desk::new();
    let job = desk.training_of(memory_spec(9));
    let told = |desk: &mut Desk| -> Vec<(String, JobId)> {
        let forget = |(worker, command)| match command {
            Command::Forget { job } => Some((worker, job)),
            _ => None,
        };
        desk.commands().into_iter().filter_map(forget).collect()
    };
    desk.commands();
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::NumericNan)));
    let name = |name: &str| (name.to_owned(), job.clone());
    assert_eq!(told(&mut desk), [name("a"), name("b")]);
    desk.register_with("c", vec![job.clone(), id("unknown-1")]);
    assert_eq!(told(&mut desk), [name("c"), ("c".to_owned(), id("unknown-1"))]);
    assert_eq!(desk.changes(|change| matches!(change, Change::Ended { .. })), 1);
}

/// A job of three stages on `a`, `b` and `c`, whose ranks guard each other in a ring, at step 5.
pub fn shadowed(desk: &mut Desk) -> JobId {
    let mut spec = spec(3, 9);
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Shadow];
    for name in ["a", "b", "c"] {
        desk.register(name, 1, 1, Vec::new());
    }
    let job = desk.job(spec);
    for (name, rank) in [("a", 0), ("b", 1), ("c", 2)] {
        ready(desk, name, &job, 1, rank, &[]);
    }
    for at in 1..=5 {
        desk.report("a", &job, 0, Report::Step(step(at)));
    }
    desk.commands();
    job
}

/// As [`ready`], with steps of a rank that was guarded there.
pub fn guards(desk: &mut Desk, name: &str, job: &JobId, rank: u32, own: &[u64], ward: (u32, &[u64])) {
    let report = Report::Ready {
        data_address: format!("h:{rank}"),
        in_memory: InMemory {
            own: own.to_vec(),
            guarded: [(RankId(ward.0), ward.1.to_vec())].into(),
            ..InMemory::default()
        },
    };
    desk.report_of(name, job, 2, rank, report);
}

/// `b` is lost, what is left of the job's trainers stops.
fn lose_b(desk: &mut Desk, job: &JobId, alive: &[&str]) {
    desk.lose("b");
    desk.wait(11_000, alive);
    desk.report("a", job, 0, Report::Stopped);
    desk.report("c", job, 2, Report::Stopped);
}

#[test]
fn a_lost_worker_s_rank_goes_on_elsewhere_from_its_guard() {
    let mut desk = Desk::new();
    let job = shadowed(&mut desk);
    desk.register("d", 1, 1, Vec::new());
    lose_b(&mut desk, &job, &["a", "c", "d"]);
    let orders = desk.orders();
    assert_eq!(
        orders[orders.len() - 3..],
        ["start a 0", "start d 1", "start c 2"]
    );
    guards(&mut desk, "a", &job, 0, &[6, 5], (2, &[6, 5]));
    guards(&mut desk, "c", &job, 2, &[5, 4], (1, &[6, 5]));
    ready(&mut desk, "d", &job, 2, 1, &[]);
    let told = |(_, command)| match command {
        Command::Connect { from, .. } => Some((from.step, from.refills)),
        _ => None,
    };
    let told: Vec<_> = desk.commands().into_iter().filter_map(told).collect();
    let from_c = (Some(5), [(RankId(1), Refill::Guard(RankId(2)))].into());
    assert_eq!(told, vec![from_c; 3]);
    desk.report_of("a", &job, 2, 0, Report::Step(step(6)));
    let incident = desk.machine.incidents(&job).expect("known").pop();
    assert_eq!(incident.expect("one").source, Some(StateSource::Shadow));
    // What was told is what the journal says.
    let kept = |change: &Change| matches!(change, Change::Connected { refills, .. } if refills.len() == 1);
    assert_eq!(desk.changes(kept), 1);
}

#[test]
fn without_room_a_job_whose_guards_live_waits() {
    let mut desk = Desk::new();
    let job = shadowed(&mut desk);
    lose_b(&mut desk, &job, &["a", "c"]);
    desk.wait(60_000, &["a", "c"]);
    assert_eq!(desk.view(&job).state, JobState::Recovering);
    desk.orders();
    desk.register("d", 1, 1, Vec::new());
    assert_eq!(desk.orders(), ["start a 0", "start d 1", "start c 2"]);
}

#[test]
fn a_rank_lost_with_its_guard_is_refused_by_name() {
    let mut desk = Desk::new();
    let job = shadowed(&mut desk);
    for name in ["d", "e"] {
        desk.register(name, 1, 1, Vec::new());
    }
    desk.lose("b");
    desk.lose("c");
    desk.wait(11_000, &["a", "d", "e"]);
    desk.report("a", &job, 0, Report::Stopped);
    desk.wait(11_000, &["a", "d", "e"]);
    let verdict = desk.verdict(&job);
    assert_eq!(verdict.worker.expect("it is named").as_str(), "b");
    assert_eq!(verdict.rank, Some(RankId(1)));
    assert!(verdict.message.contains("nobody's memory"), "{}", verdict.message);
}

/// A job of four stages on `a` to `d`, each guarded by the next two, at step 5.
fn guarded_twice(desk: &mut Desk) -> JobId {
    let mut spec = spec(4, 9);
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Shadow];
    spec.recovery.guards = 2;
    let names = ["a", "b", "c", "d"];
    for name in names {
        desk.register(name, 1, 1, Vec::new());
    }
    let job = desk.job(spec);
    for (rank, name) in (0..).zip(names) {
        ready(desk, name, &job, 1, rank, &[]);
    }
    for at in 1..=5 {
        desk.report("a", &job, 0, Report::Step(step(at)));
    }
    desk.commands();
    job
}

#[test]
fn any_two_of_four_workers_may_be_lost_at_once_where_ranks_have_two_guards() {
    let names = ["a", "b", "c", "d"];
    let two = |first: usize| (first + 1..4).map(move |second| [first, second]);
    for lost in (0..4).flat_map(two) {
        let mut desk = Desk::new();
        let job = guarded_twice(&mut desk);
        let (gone, alive): (Vec<u32>, Vec<u32>) = (0..4).partition(|rank| lost.contains(&(*rank as usize)));
        let name = |rank: &u32| names[*rank as usize];
        let living: Vec<&str> = alive.iter().map(name).chain(["e", "f"]).collect();
        for spare in ["e", "f"] {
            desk.register(spare, 1, 1, Vec::new());
        }
        gone.iter().for_each(|rank| desk.lose(name(rank)));
        desk.wait(11_000, &living);
        alive
            .iter()
            .for_each(|rank| desk.report(name(rank), &job, *rank, Report::Stopped));
        let orders = desk.orders();
        let mut started = orders[orders.len() - 4..].to_vec();
        started.sort();
        let mut wanted: Vec<String> = alive
            .iter()
            .map(|rank| format!("start {} {rank}", name(rank)))
            .collect();
        wanted.extend(
            gone.iter()
                .zip(["e", "f"])
                .map(|(rank, spare)| format!("start {spare} {rank}")),
        );
        wanted.sort();
        assert_eq!(started, wanted, "{lost:?}");
        // Every living rank's worker has the state of those of its two wards; the coordinator finds one that has it.
        let keeps = |guard: u32, ward: u32| (guard + 4 - ward) % 4 == 1 || (guard + 4 - ward) % 4 == 2;
        for rank in &alive {
            let wards = gone.iter().filter(|ward| keeps(*rank, **ward));
            let report = Report::Ready {
                data_address: format!("h:{rank}"),
                in_memory: InMemory {
                    own: vec![5, 4],
                    guarded: wards.map(|ward| (RankId(*ward), vec![5, 4])).collect(),
                    ..InMemory::default()
                },
            };
            desk.report_of(name(rank), &job, 2, *rank, report);
        }
        for (rank, spare) in gone.iter().zip(["e", "f"]) {
            ready(&mut desk, spare, &job, 2, *rank, &[]);
        }
        let told = |(_, command)| match command {
            Command::Connect { from, .. } => Some((from.step, from.refills)),
            _ => None,
        };
        let told: Vec<_> = desk.commands().into_iter().filter_map(told).collect();
        assert_eq!(told.len(), 4, "{lost:?}");
        for (local, refills) in told {
            assert_eq!(local, Some(5), "{lost:?}");
            let told: Vec<u32> = refills.keys().map(|rank| rank.0).collect();
            assert_eq!(told, gone, "{lost:?}");
            let good = |(rank, from): (&RankId, &Refill)| match from {
                Refill::Guard(guard) => keeps(guard.0, rank.0) && alive.contains(&guard.0),
                Refill::Mean(_) | Refill::Best { .. } | Refill::Parity(_) => false,
            };
            assert!(refills.iter().all(good), "{lost:?}: {refills:?}");
        }
    }
}

#[test]
fn a_third_worker_lost_with_the_guards_of_a_rank_is_one_too_many() {
    let mut desk = Desk::new();
    let job = guarded_twice(&mut desk);
    for name in ["e", "f", "g"] {
        desk.register(name, 1, 1, Vec::new());
    }
    ["b", "c", "d"].into_iter().for_each(|name| desk.lose(name));
    desk.wait(11_000, &["a", "e", "f", "g"]);
    desk.report("a", &job, 0, Report::Stopped);
    desk.wait(11_000, &["a", "e", "f", "g"]);
    let verdict = desk.verdict(&job);
    assert_eq!(verdict.worker.expect("it is named").as_str(), "b");
    assert!(verdict.message.contains("nobody's memory"), "{}", verdict.message);
}

/// Rank 0 reported steps up to 3 and is lost; guards have it at 6, but the line of 6 may be with nobody: the keeper
/// of lines is at 5.
#[test]
fn where_no_line_was_heard_the_keepers_own_step_is_taken() {
    let mut desk = Desk::new();
    let mut spec = spec(3, 9);
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Shadow];
    for name in ["a", "b", "c"] {
        desk.register(name, 1, 1, Vec::new());
    }
    let job = desk.job(spec);
    for (name, rank) in [("a", 0), ("b", 1), ("c", 2)] {
        ready(&mut desk, name, &job, 1, rank, &[]);
    }
    (1..=3).for_each(|at| desk.report("a", &job, 0, Report::Step(step(at))));
    desk.register("d", 1, 1, Vec::new());
    desk.lose("a");
    desk.wait(11_000, &["b", "c", "d"]);
    desk.report("b", &job, 1, Report::Stopped);
    desk.report("c", &job, 2, Report::Stopped);
    desk.commands();
    ready(&mut desk, "d", &job, 2, 0, &[]);
    // Ranks guard each other in a ring: b keeps lines beside a, and guards it.
    guards(&mut desk, "b", &job, 1, &[5, 4], (0, &[6, 5]));
    guards(&mut desk, "c", &job, 2, &[6, 5], (1, &[6, 5]));
    let told = |(_, command)| match command {
        Command::Connect { from, .. } => from.step,
        _ => None,
    };
    let told: Vec<_> = desk.commands().into_iter().filter_map(told).collect();
    assert_eq!(told, [5; 3]);
}

/// Two stages of two lanes on `a` to `d`, guards in a ring, at step 5; `lost` don't come back, `e` and `f` take their
/// places.
fn two_lanes_without(desk: &mut Desk, sources: &[RecoverySource], lost: &[&str]) -> JobId {
    const WORKERS: [&str; 4] = ["a", "b", "c", "d"];
    let mut spec = spec(2, 9);
    spec.parallelism.data = Auto::Count(2);
    spec.recovery.sources = sources.to_vec();
    for name in WORKERS {
        desk.register(name, 1, 1, Vec::new());
    }
    let job = desk.job(spec);
    let ranks = WORKERS.into_iter().zip(0..);
    for (name, rank) in ranks.clone() {
        ready(desk, name, &job, 1, rank, &[]);
    }
    for at in 1..=5 {
        desk.report("a", &job, 0, Report::Step(step(at)));
    }
    for name in ["e", "f"] {
        desk.register(name, 1, 1, Vec::new());
    }
    lost.iter().for_each(|name| desk.lose(name));
    let alive = ["a", "b", "c", "d", "e", "f"].into_iter();
    let alive: Vec<&str> = alive.filter(|name| !lost.contains(name)).collect();
    desk.wait(11_000, &alive);
    for (name, rank) in ranks.filter(|(name, _)| !lost.contains(name)) {
        desk.report(name, &job, rank, Report::Stopped);
    }
    desk.wait(11_000, &alive);
    job
}

#[test]
fn where_guards_keep_moments_alone_a_stage_lost_in_all_lanes_is_refused() {
    use RecoverySource::{Local, Replica, Shadow};
    let both = ["a", "c"];
    let mut desk = Desk::new();
    let job = two_lanes_without(&mut desk, &[Local, Shadow], &both);
    assert_eq!(
        desk.view(&job).state,
        JobState::Starting,
        "guards have the weights"
    );
    let mut desk = Desk::new();
    let job = two_lanes_without(&mut desk, &[Local, Shadow, Replica], &["a"]);
    assert_eq!(
        desk.view(&job).state,
        JobState::Starting,
        "the other lane has them"
    );
    let mut desk = Desk::new();
    let job = two_lanes_without(&mut desk, &[Local, Shadow, Replica], &both);
    let verdict = desk.verdict(&job);
    assert!(verdict.message.contains("nobody's memory"), "{}", verdict.message);
}

/// A lane that has other steps than the guard is none to take weights from.
#[test]
fn moments_and_weights_of_two_steps_are_never_put_together() {
    use RecoverySource::{Local, Replica, Shadow};
    for (of_the_lane, wanted) in [(&[6, 5][..], Some(5)), (&[4], None)] {
        let mut desk = Desk::new();
        let job = two_lanes_without(&mut desk, &[Local, Shadow, Replica], &["a"]);
        desk.commands();
        ready(&mut desk, "e", &job, 2, 0, &[]);
        guards(&mut desk, "b", &job, 1, &[6, 5, 4], (0, &[6, 5]));
        guards(&mut desk, "c", &job, 2, of_the_lane, (1, &[6, 5]));
        guards(&mut desk, "d", &job, 3, &[6, 5, 4], (2, &[6, 5]));
        let told = |(_, command)| match command {
            Command::Connect { from, .. } => Some((from.step, from.refills)),
            _ => None,
        };
        let told: Vec<_> = desk.commands().into_iter().filter_map(told).collect();
        let from_b = |step| (Some(step), [(RankId(0), Refill::Guard(RankId(1)))].into());
        assert_eq!(told, wanted.map_or_else(Vec::new, |step| vec![from_b(step); 4]));
    }
}

#[test]
fn a_job_with_fewer_workers_than_guards_says_so() {
    let mut desk = Desk::new();
    let mut spec = spec(4, 9);
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Shadow];
    spec.recovery.guards = 2;
    for name in ["a", "b"] {
        desk.register(name, 1, 2, Vec::new());
    }
    let job = desk.job(spec);
    let events = desk
        .machine
        .events(&job, 0)
        .expect("the job is known")
        .into_iter();
    let fewer = events.filter(|event| event.kind == "recovery.fewer_guards");
    let notes: Vec<String> = fewer.map(|event| event.detail).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].contains("recovery.guards = 2") && notes[0].contains("each has 1"),
        "{notes:?}"
    );
}

#[test]
fn a_guard_whose_machine_came_back_empty_is_no_guard() {
    for kept in [false, true] {
        let mut desk = Desk::new();
        let job = shadowed(&mut desk);
        desk.register("d", 1, 1, Vec::new());
        desk.lose("b");
        desk.lose("c");
        desk.wait(2_000, &["a", "d"]);
        let found = if kept { vec![job.clone()] } else { Vec::new() };
        desk.register_kept("c", 2, 1, Vec::new(), found);
        desk.wait(9_500, &["a", "c", "d"]);
        desk.report("a", &job, 0, Report::Stopped);
        desk.orders();
        desk.wait(11_000, &["a", "c", "d"]);
        let state = if kept {
            JobState::Starting
        } else {
            JobState::Failed
        };
        assert_eq!(desk.view(&job).state, state);
    }
}
