//! Going back to what groups exchanged, when a worker took its state with it.

use std::collections::BTreeMap;

use rekindle_types::spec::RecoverySource;
use rekindle_types::{
    Command, Epoch, InMemory, JobId, JobState, Parities, ParitySet, RankId, Refill, Report, StateSource,
};

use crate::desk::{Desk, spec, step};

const WORKERS: [&str; 4] = ["a", "b", "c", "d"];

/// A job of four stages on four workers, one group that outlives so many losses, at step 5; `e` and `f` are free.
fn grouped(desk: &mut Desk, losses: u32) -> JobId {
    let mut spec = spec(4, 9);
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Parity];
    (spec.recovery.parity.every, spec.recovery.parity.losses) = (2, losses);
    for name in WORKERS {
        desk.register(name, 1, 1, Vec::new());
    }
    let job = desk.job(spec);
    for (name, rank) in WORKERS.into_iter().zip(0..) {
        finds(desk, name, &job, 1, rank, (&[], &[]));
    }
    for at in 1..=5 {
        desk.report("a", &job, 0, Report::Step(step(at)));
    }
    for name in ["e", "f"] {
        desk.register(name, 1, 1, Vec::new());
    }
    desk.commands();
    job
}

/// A trainer is ready and has found its own steps, and sets of (step, epoch).
fn finds(desk: &mut Desk, name: &str, job: &JobId, epoch: u64, rank: u32, found: (&[u64], &[(u64, u64)])) {
    let set = |(step, epoch): &(u64, u64)| ParitySet {
        step: *step,
        epoch: Epoch(*epoch),
        members: (0..4).map(RankId).collect(),
    };
    let report = Report::Ready {
        data_address: format!("h:{rank}"),
        in_memory: InMemory {
            own: found.0.to_vec(),
            parity: found.1.iter().map(set).collect(),
            ..InMemory::default()
        },
    };
    desk.report_of(name, job, epoch, rank, report);
}

/// These workers are lost, and what is left of the job's trainers stops; then none of them came back for a while.
fn lose(desk: &mut Desk, job: &JobId, lost: &[&str]) {
    let left: Vec<&str> = WORKERS.into_iter().filter(|name| !lost.contains(name)).collect();
    let alive = [left.clone(), vec!["e", "f"]].concat();
    lost.iter().for_each(|name| desk.lose(name));
    desk.wait(11_000, &alive);
    for (name, rank) in WORKERS
        .into_iter()
        .zip(0..)
        .filter(|(name, _)| left.contains(name))
    {
        desk.report(name, job, rank, Report::Stopped);
    }
    assert_eq!(desk.view(job).state, JobState::Recovering, "they may come back");
    desk.wait(11_000, &alive);
}

/// What the ranks were told, all the same: the step, and who takes what out of which sets.
fn told(desk: &mut Desk) -> Option<(Option<u64>, BTreeMap<RankId, Refill>)> {
    let told = |(_, command)| match command {
        Command::Connect { from, .. } => Some((from.step, from.refills)),
        _ => None,
    };
    let mut all: Vec<_> = desk.commands().into_iter().filter_map(told).collect();
    all.dedup();
    assert!(all.len() < 2, "{all:?}");
    all.pop()
}

fn from(epoch: u64, ranks: &[u32]) -> Refill {
    Refill::Parity(Parities {
        epoch: Epoch(epoch),
        members: (0..4).map(RankId).collect(),
        from: ranks.iter().copied().map(RankId).collect(),
    })
}

#[test]
fn all_go_back_to_the_last_exchange_when_one_took_its_state_with_it() {
    let mut desk = Desk::new();
    let job = grouped(&mut desk, 1);
    lose(&mut desk, &job, &["b"]);
    let orders = desk.orders();
    let starts = ["start a 0", "start e 1", "start c 2", "start d 3"];
    assert_eq!(orders[orders.len() - 4..], starts);
    finds(&mut desk, "a", &job, 2, 0, (&[6, 5], &[(4, 1), (2, 1)]));
    finds(&mut desk, "e", &job, 2, 1, (&[], &[]));
    finds(&mut desk, "c", &job, 2, 2, (&[5, 4], &[(4, 1), (2, 1)]));
    finds(&mut desk, "d", &job, 2, 3, (&[6, 5], &[(2, 1)]));
    // Two of the three sets of step 4 don't do; of step 2 all three are there.
    let wanted = (0..4).map(|rank| (RankId(rank), from(1, &[0, 2, 3])));
    assert_eq!(told(&mut desk), Some((Some(2), wanted.collect())));
    desk.report_of("a", &job, 2, 0, Report::Step(step(3)));
    let incident = desk.machine.incidents(&job).expect("known").pop().expect("one");
    assert_eq!(incident.source, Some(StateSource::Parity));
    assert_eq!(
        (incident.resumed_step, incident.steps_again()),
        (Some(2), Some(3))
    );
    assert!(incident.decision.contains("parities"), "{}", incident.decision);
    assert_eq!(desk.view(&job).state, JobState::Running);
}

#[test]
fn a_rank_with_the_step_in_its_last_two_needs_no_set_for_itself() {
    let mut desk = Desk::new();
    let job = grouped(&mut desk, 1);
    lose(&mut desk, &job, &["b"]);
    finds(&mut desk, "a", &job, 2, 0, (&[5, 4], &[(4, 1)]));
    finds(&mut desk, "e", &job, 2, 1, (&[], &[]));
    finds(&mut desk, "c", &job, 2, 2, (&[6, 5], &[(4, 1)]));
    finds(&mut desk, "d", &job, 2, 3, (&[6, 5], &[(4, 1)]));
    let wanted = (1..4).map(|rank| (RankId(rank), from(1, &[0, 2, 3])));
    assert_eq!(told(&mut desk), Some((Some(4), wanted.collect())));
}

#[test]
fn newer_steps_that_all_have_are_preferred() {
    let mut desk = Desk::new();
    let job = grouped(&mut desk, 1);
    desk.lose("b");
    desk.register("b", 2, 1, Vec::new());
    for (name, rank) in WORKERS.into_iter().zip(0..).filter(|(name, _)| *name != "b") {
        desk.report(name, &job, rank, Report::Stopped);
    }
    assert_eq!(
        desk.orders().last().map(String::as_str),
        Some("start d 3"),
        "where they were"
    );
    for (name, rank) in WORKERS.into_iter().zip(0..) {
        finds(&mut desk, name, &job, 2, rank, (&[5], &[(4, 1)]));
    }
    assert_eq!(told(&mut desk), Some((Some(5), BTreeMap::new())));
}

#[test]
fn two_may_be_lost_where_the_job_says_so() {
    let mut desk = Desk::new();
    let job = grouped(&mut desk, 2);
    lose(&mut desk, &job, &["b", "c"]);
    for (name, rank, sets) in [("a", 0, [(4, 1)]), ("d", 3, [(4, 1)])] {
        finds(&mut desk, name, &job, 2, rank, (&[6, 5], &sets));
    }
    finds(&mut desk, "e", &job, 2, 1, (&[], &[]));
    finds(&mut desk, "f", &job, 2, 2, (&[], &[]));
    let wanted = (0..4).map(|rank| (RankId(rank), from(1, &[0, 3])));
    assert_eq!(told(&mut desk), Some((Some(4), wanted.collect())));
}

#[test]
fn one_loss_too_many_is_refused_by_name() {
    let mut desk = Desk::new();
    let job = grouped(&mut desk, 1);
    lose(&mut desk, &job, &["b", "c"]);
    let verdict = desk.verdict(&job);
    assert_eq!(verdict.worker.expect("it is named").as_str(), "b");
    assert!(verdict.message.contains("nobody's memory"), "{}", verdict.message);
}

#[test]
fn sets_of_two_epochs_are_never_mixed() {
    let mut desk = Desk::new();
    let job = grouped(&mut desk, 1);
    lose(&mut desk, &job, &["b"]);
    finds(&mut desk, "a", &job, 2, 0, (&[6], &[(4, 1)]));
    finds(&mut desk, "e", &job, 2, 1, (&[], &[]));
    finds(&mut desk, "c", &job, 2, 2, (&[6], &[(4, 1)]));
    finds(&mut desk, "d", &job, 2, 3, (&[6], &[(4, 0)]));
    assert_eq!(told(&mut desk), None);
    let verdict = desk.verdict(&job);
    assert_eq!(verdict.rank, Some(RankId(1)));
}
