//! Trainers that go over to another epoch, by effects.

use rekindle_types::{Command, Epoch, Failure, FailureClass, Origin, RankId, Report};

use super::tests::{exited, key, open_worker, start};
use super::*;
use crate::trainer_messages::{FromTrainer, ToTrainer};

fn says(worker: &mut Worker, now: Millis, key: TrainerKey, message: FromTrainer) -> Vec<Effect> {
    worker.handle(now, Event::FromTrainer { key, message })
}

fn ready() -> FromTrainer {
    FromTrainer::Ready {
        data_address: "h:1".to_owned(),
        in_memory: InMemory::own(&[4, 3]),
    }
}

fn failure(message: &str) -> Failure {
    Failure {
        class: FailureClass::Network,
        rank: Some(RankId(0)),
        worker: None,
        message: message.to_owned(),
    }
}

fn halted() -> FromTrainer {
    FromTrainer::Halted {
        failure: failure("a peer is gone"),
    }
}

fn halt(epoch: u64) -> Event {
    Event::Command(Command::Halt {
        job: key(1, 0).job,
        epoch: Epoch(epoch),
        reason: "test".to_owned(),
    })
}

fn connect(epoch: u64) -> Event {
    Event::Command(Command::Connect {
        job: key(1, 0).job,
        epoch: Epoch(epoch),
        peers: [(RankId(0), "h:1".to_owned())].into(),
        from: Origin::default(),
    })
}

/// A worker whose trainers of epoch 1 train.
fn training(ranks: &[u32]) -> Worker {
    let mut worker = open_worker();
    for rank in ranks {
        worker.handle(0, start(1, *rank));
        says(&mut worker, 0, key(1, *rank), ready());
    }
    worker.handle(0, connect(1));
    worker
}

fn told(effects: &[Effect], key: &TrainerKey, what: &ToTrainer) -> bool {
    let is = |effect: &Effect| matches!(effect, Effect::ToTrainer { key: to, message } if to == key && message == what);
    effects.iter().any(is)
}

fn reports(effects: &[Effect]) -> Vec<(Epoch, Report)> {
    let sent = effects.iter().filter_map(|effect| match effect {
        Effect::Send { report } => Some((report.epoch, report.report.clone())),
        _ => None,
    });
    sent.collect()
}

fn edits(effects: &[Effect]) -> Vec<(TrainerKey, TrainerKey)> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::EditTrainer { from, key, .. } => Some((from.clone(), key.clone())),
        _ => None,
    });
    all.collect()
}

#[test]
fn a_trainer_that_halted_becomes_its_rank_of_the_next_epoch() {
    let mut worker = training(&[0]);
    let effects = worker.handle(1, halt(1));
    assert!(told(&effects, &key(1, 0), &ToTrainer::Halt));
    assert_eq!(worker.handle(1, halt(1)), [], "once");
    let effects = says(&mut worker, 2, key(1, 0), halted());
    assert_eq!(
        reports(&effects),
        [(Epoch(1), Report::Halted { failure: None })],
        "as told"
    );
    let effects = worker.handle(3, start(2, 0));
    assert_eq!(edits(&effects), [(key(1, 0), key(2, 0))]);
    assert_eq!(effects.len(), 1, "nothing is stopped or started");
    assert_eq!(worker.handle(3, start(2, 0)), [], "once");
    let effects = says(&mut worker, 4, key(2, 0), ready());
    assert!(matches!(
        reports(&effects)[..],
        [(Epoch(2), Report::Ready { .. })]
    ));
    let effects = worker.handle(5, connect(2));
    assert!(matches!(&effects[..], [Effect::ToTrainer { key: to, .. }] if *to == key(2, 0)));
    for now in (0..60_000).step_by(500) {
        let effects = worker.handle(now, Event::Tick);
        assert!(
            !effects
                .iter()
                .any(|effect| matches!(effect, Effect::Kill { .. } | Effect::Terminate { .. }))
        );
    }
}

#[test]
fn one_that_lost_a_peer_says_why_and_whoever_asks_later_is_told_again() {
    let mut worker = training(&[0]);
    let effects = says(&mut worker, 1, key(1, 0), halted());
    let why = Some(failure("a peer is gone"));
    assert_eq!(reports(&effects), [(Epoch(1), Report::Halted { failure: why })]);
    assert_eq!(says(&mut worker, 1, key(1, 0), halted()), [], "once");
    let effects = worker.handle(2, halt(1));
    assert_eq!(reports(&effects), [(Epoch(1), Report::Halted { failure: None })]);
    assert!(!told(&effects, &key(1, 0), &ToTrainer::Halt));
    assert_eq!(edits(&worker.handle(3, start(2, 0))).len(), 1);
}

#[test]
fn another_shape_or_another_rank_is_another_process() {
    let mut worker = training(&[0]);
    says(&mut worker, 1, key(1, 0), halted());
    let Event::Command(Command::Start(mut other)) = start(2, 0) else {
        panic!("a start")
    };
    other.plan.stages = vec![0..1, 1..4];
    let effects = worker.handle(2, Event::Command(Command::Start(other)));
    assert_eq!(
        effects,
        [Effect::Terminate { key: key(1, 0) }],
        "first that one ends"
    );
    let effects = worker.handle(3, exited(key(1, 0), Some(0), None));
    assert!(matches!(
        effects[..],
        [Effect::Send { .. }, Effect::SpawnTrainer { .. }]
    ));
    let mut worker = training(&[0]);
    says(&mut worker, 1, key(1, 0), halted());
    let effects = worker.handle(2, start(2, 1));
    assert!(
        matches!(&effects[..], [Effect::SpawnTrainer { key: new, .. }] if *new == key(2, 1)),
        "beside it"
    );
    assert_eq!(edits(&worker.handle(3, start(2, 0))), [(key(1, 0), key(2, 0))]);
}

#[test]
fn what_cant_halt_is_stopped() {
    // One isn't connected yet, one doesn't answer, one leaves instead.
    let mut worker = training(&[0]);
    worker.handle(0, start(1, 1));
    let effects = worker.handle(1, halt(1));
    assert!(told(&effects, &key(1, 0), &ToTrainer::Halt));
    assert!(effects.contains(&Effect::Terminate { key: key(1, 1) }));
    let mut stopped_at = None;
    for now in (0..5_000).step_by(100) {
        if worker
            .handle(now, Event::Tick)
            .contains(&Effect::Terminate { key: key(1, 0) })
        {
            stopped_at.get_or_insert(now);
        }
    }
    assert!(
        stopped_at.is_some_and(|at| (2_000..2_300).contains(&at)),
        "{stopped_at:?}"
    );
    let late = says(&mut worker, 5_000, key(1, 0), halted());
    assert_eq!(reports(&late), [], "too late");
    let effects = worker.handle(5_001, exited(key(1, 0), Some(0), None));
    assert_eq!(reports(&effects), [(Epoch(1), Report::Stopped)]);
    let mut worker = training(&[0]);
    worker.handle(1, halt(1));
    let effects = worker.handle(2, exited(key(1, 0), Some(0), None));
    assert_eq!(reports(&effects), [(Epoch(1), Report::Stopped)], "it was told to");
}

#[test]
fn an_edit_that_goes_wrong_ends_in_another_process_of_the_same_epoch() {
    type Wrong = fn(&mut Worker) -> Vec<Effect>;
    let dies: Wrong = |_| vec![Effect::Kill { key: key(2, 0) }];
    let refuses: Wrong = |worker| {
        let failure = failure("no");
        says(worker, 5, key(2, 0), FromTrainer::Failed(failure))
    };
    let is_silent: Wrong = |worker| {
        let ticks = (0..15_000).step_by(500);
        ticks.flat_map(|now| worker.handle(now, Event::Tick)).collect()
    };
    for wrong in [dies, refuses, is_silent] {
        let mut worker = training(&[0]);
        says(&mut worker, 1, key(1, 0), halted());
        worker.handle(2, start(2, 0));
        let effects = wrong(&mut worker);
        assert!(effects.contains(&Effect::Kill { key: key(2, 0) }));
        assert_eq!(
            reports(&effects),
            [],
            "the coordinator still waits for it to be ready"
        );
        let effects = worker.handle(15_001, exited(key(2, 0), None, Some(9)));
        let again =
            |effect: &Effect| matches!(effect, Effect::SpawnTrainer { key: new, .. } if *new == key(2, 0));
        assert!(effects.iter().any(again) && reports(&effects).is_empty());
        let effects = says(&mut worker, 15_002, key(2, 0), ready());
        assert!(matches!(
            reports(&effects)[..],
            [(Epoch(2), Report::Ready { .. })]
        ));
    }
}

#[test]
fn a_stop_ends_what_waits_and_what_is_being_edited() {
    let stop = |epoch| {
        let (job, reason) = (key(1, 0).job, "test".to_owned());
        let epoch = Epoch(epoch);
        Event::Command(Command::Stop { job, epoch, reason })
    };
    let mut worker = training(&[0]);
    says(&mut worker, 1, key(1, 0), halted());
    assert_eq!(worker.handle(2, stop(1)), [Effect::Terminate { key: key(1, 0) }]);
    let effects = worker.handle(3, exited(key(1, 0), Some(0), None));
    assert_eq!(reports(&effects), [(Epoch(1), Report::Stopped)]);
    let mut worker = training(&[0]);
    says(&mut worker, 1, key(1, 0), halted());
    worker.handle(2, start(2, 0));
    assert_eq!(worker.handle(3, stop(2)), [Effect::Terminate { key: key(2, 0) }]);
    let effects = worker.handle(4, exited(key(2, 0), Some(0), None));
    assert_eq!(
        reports(&effects),
        [(Epoch(2), Report::Stopped)],
        "and not started again"
    );
}

/// Peers that go first are no failure of one that halts; what its device meets is.
#[test]
fn one_that_halts_tells_of_its_device_and_not_of_its_peers() {
    for (class, told) in [(FailureClass::Network, false), (FailureClass::GpuXid, true)] {
        let mut worker = training(&[0]);
        worker.handle(1, halt(1));
        let failure = Failure {
            class,
            ..failure("met while it halts")
        };
        let effects = says(&mut worker, 2, key(1, 0), FromTrainer::Failed(failure.clone()));
        let wanted = told.then_some((Epoch(1), Report::Failed(failure)));
        assert_eq!(
            reports(&effects),
            wanted.into_iter().collect::<Vec<_>>(),
            "{class}"
        );
    }
}
