//! The worker's machine by its effects.

use rekindle_types::{
    Command, Epoch, Failure, FailureClass, JobFile, JobId, Plan, RankId, Report, StartTrainer, StepReport,
    WorkerId,
};

use super::*;
use crate::event::{Exit, SessionTerms};
use crate::trainer_messages::{FromTrainer, ToTrainer};

pub(crate) fn key(epoch: u64, rank: u32) -> TrainerKey {
    TrainerKey {
        job: JobId::new("job").expect("a good id"),
        epoch: Epoch(epoch),
        rank: RankId(rank),
    }
}

pub(crate) fn step(number: u64) -> StepReport {
    StepReport {
        step: number,
        loss: 1.0,
        grad_norm: 1.0,
        lr: 0.1,
        tokens: 8,
        step_seconds: 0.5,
        epoch: Epoch(1),
        data_digest: String::new(),
        state_digest: None,
        val_loss: None,
        stage_norms: Vec::new(),
    }
}

pub(crate) fn start(epoch: u64, rank: u32) -> Event {
    let text = "[job]\nname=\"job\"\noutput=\"o\"\n[model]\nhidden_size=8\nintermediate_size=8\nnum_hidden_layers=2\n\
                num_attention_heads=2\n[data]\ntrain=[\"t\"]\nseq_len=4\n[training]\nsteps=3\nglobal_batch=2\nmicro_batch=1\n\
                [optimizer]\nlr=0.1\n";
    let spec = JobFile::parse(text)
        .expect("a good file")
        .into_spec(None)
        .expect("a good job");
    let worker = WorkerId::new("w").expect("a good id");
    let plan = Plan {
        job: key(1, 0).job,
        epoch: Epoch(epoch),
        lanes: 1,
        stages: vec![0..2, 2..4],
        workers: vec![worker.clone(), worker],
    };
    Event::Command(Command::Start(Box::new(StartTrainer {
        rank: RankId(rank),
        spec,
        plan,
        writer: "w".to_owned(),
        start: None,
        mtbf_seconds: 3600.0,
        heard: None,
    })))
}

fn stop(epoch: u64) -> Event {
    Event::Command(Command::Stop {
        job: key(1, 0).job,
        epoch: Epoch(epoch),
        reason: "test".to_owned(),
    })
}

fn says(key: TrainerKey, message: FromTrainer) -> Event {
    Event::FromTrainer { key, message }
}

pub(crate) fn exited(key: TrainerKey, code: Option<i32>, signal: Option<i32>) -> Event {
    let last_lines = vec!["the last line".to_owned()];
    Event::Exited {
        key,
        exit: Exit {
            code,
            signal,
            last_lines,
        },
    }
}

/// A worker with an open session at time 0.
pub(crate) fn open_worker() -> Worker {
    let mut worker = Worker::new(WorkerConfig::new(WorkerId::new("w").expect("a good id"), 9));
    let effects = worker.handle(0, Event::Tick);
    assert!(matches!(effects[..], [Effect::OpenSession { .. }]), "{effects:?}");
    let terms = SessionTerms { heartbeat: 1_000 };
    assert_eq!(worker.handle(0, Event::SessionOpened { terms }), []);
    worker
}

fn reports(effects: &[Effect]) -> Vec<&Report> {
    let sent = effects.iter().filter_map(|effect| match effect {
        Effect::Send { report } => Some(&report.report),
        _ => None,
    });
    sent.collect()
}

#[test]
fn a_trainer_goes_from_start_to_finished() {
    let mut worker = open_worker();
    let effects = worker.handle(1, start(1, 0));
    assert!(matches!(&effects[..], [Effect::SpawnTrainer { key: k, threads: 1, .. }] if *k == key(1, 0)));
    assert_eq!(
        worker.handle(1, start(1, 0)),
        [],
        "a repeated start has no effect"
    );
    worker.handle(2, Event::Spawned { key: key(1, 0) });
    let data_address = "h:1".to_owned();
    let effects = worker.handle(
        3,
        says(
            key(1, 0),
            FromTrainer::Ready {
                data_address,
                in_memory: rekindle_types::InMemory::own(&[4]),
            },
        ),
    );
    assert!(matches!(reports(&effects)[..], [Report::Ready { .. }]));
    let connect = Command::Connect {
        from: rekindle_types::Origin {
            step: Some(4),
            ..Default::default()
        },
        job: key(1, 0).job,
        epoch: Epoch(1),
        peers: [(RankId(0), "h:1".to_owned())].into(),
    };
    let effects = worker.handle(4, Event::Command(connect.clone()));
    assert!(matches!(
        &effects[..],
        [Effect::ToTrainer {
            message: ToTrainer::Connect { .. },
            ..
        }]
    ));
    assert_eq!(
        worker.handle(4, Event::Command(connect)),
        [],
        "connected once only"
    );
    let effects = worker.handle(5, says(key(1, 0), FromTrainer::Step(step(1))));
    assert!(matches!(reports(&effects)[..], [Report::Step(_)]));
    let effects = worker.handle(6, says(key(1, 0), FromTrainer::Finished));
    assert_eq!(reports(&effects), [&Report::Finished]);
    assert_eq!(worker.trainers(), [], "one that said its end isn't told of again");
    assert_eq!(worker.handle(7, exited(key(1, 0), Some(0), None)), []);
    assert_eq!(
        worker.handle(8, start(1, 0)),
        [],
        "what ended isn't started again"
    );
}

#[test]
fn an_exit_nobody_asked_for_is_a_crash_with_its_cause() {
    for (code, signal, said) in [
        (Some(3), None, "status 3"),
        (None, Some(9), "signal 9"),
        (Some(0), None, "status 0"),
    ] {
        let mut worker = open_worker();
        worker.handle(1, start(1, 1));
        worker.handle(1, says(key(1, 1), FromTrainer::Progress { step: 7 }));
        let effects = worker.handle(2, exited(key(1, 1), code, signal));
        let [Report::Failed(failure)] = reports(&effects)[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(failure.class, FailureClass::WorkerCrash);
        assert_eq!(failure.rank, Some(RankId(1)));
        for part in [said, "after step 7", "the last line"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }
}

#[test]
fn a_trainers_own_failure_is_reported_once() {
    let mut worker = open_worker();
    worker.handle(1, start(1, 0));
    let failure = Failure {
        class: FailureClass::DataError,
        rank: None,
        worker: None,
        message: "no such file".to_owned(),
    };
    let effects = worker.handle(2, says(key(1, 0), FromTrainer::Failed(failure.clone())));
    assert_eq!(reports(&effects), [&Report::Failed(failure)]);
    assert_eq!(worker.handle(3, exited(key(1, 0), Some(1), None)), []);
}

#[test]
fn stop_terminates_then_kills_and_reports_stopped() {
    let mut worker = open_worker();
    worker.handle(0, start(1, 0));
    assert_eq!(worker.handle(0, stop(1)), [Effect::Terminate { key: key(1, 0) }]);
    assert_eq!(worker.handle(0, stop(1)), [], "once");
    let mut killed_at = None;
    for now in (0..20_000).step_by(100) {
        let effects = worker.handle(now, Event::Tick);
        if effects.contains(&Effect::Kill { key: key(1, 0) }) {
            killed_at.get_or_insert(now);
        }
    }
    assert_eq!(killed_at, Some(5_000));
    let effects = worker.handle(20_000, exited(key(1, 0), None, Some(9)));
    assert_eq!(reports(&effects), [&Report::Stopped]);
}

#[test]
fn a_newer_epoch_waits_for_the_older_process_to_exit() {
    let mut worker = open_worker();
    worker.handle(0, start(1, 0));
    assert_eq!(
        worker.handle(0, start(2, 1)),
        [Effect::Terminate { key: key(1, 0) }]
    );
    assert_eq!(worker.handle(0, start(1, 1)), [], "an older epoch is dropped");
    assert_eq!(worker.handle(0, stop(1)), [], "and so is its stop");
    let effects = worker.handle(1, exited(key(1, 0), Some(0), None));
    assert_eq!(reports(&effects), [&Report::Stopped]);
    assert!(matches!(&effects[1..], [Effect::SpawnTrainer { key: k, .. }] if *k == key(2, 1)));
}

#[test]
fn reports_are_sent_again_until_acknowledged() {
    let mut worker = open_worker();
    worker.handle(0, start(1, 0));
    worker.handle(0, says(key(1, 0), FromTrainer::Step(step(1))));
    worker.handle(0, says(key(1, 0), FromTrainer::Step(step(2))));
    worker.handle(0, Event::Command(Command::Acknowledge { up_to: 1 }));
    worker.handle(
        0,
        Event::SessionClosed {
            message: "gone".to_owned(),
        },
    );
    let effects = worker.handle(1, exited(key(1, 0), None, Some(11)));
    assert_eq!(reports(&effects).len(), 0, "nobody to send to");
    let effects = worker.handle(3_000, Event::Tick);
    let [Effect::OpenSession { registration }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(registration.trainers, []);
    let terms = SessionTerms { heartbeat: 1_000 };
    let effects = worker.handle(3_001, Event::SessionOpened { terms });
    assert!(matches!(
        reports(&effects)[..],
        [Report::Step(_), Report::Failed(_)]
    ));
}

#[test]
fn trainers_outlive_the_coordinator_up_to_a_bound() {
    let mut worker = open_worker();
    worker.handle(0, start(1, 0));
    worker.handle(
        0,
        Event::SessionClosed {
            message: "gone".to_owned(),
        },
    );
    let mut stopped_at = None;
    let mut now = 0;
    while stopped_at.is_none() && now < 5_000_000 {
        now += 500;
        let effects = worker.handle(now, Event::Tick);
        if effects.contains(&Effect::Terminate { key: key(1, 0) }) {
            stopped_at = Some(now);
        }
    }
    assert_eq!(stopped_at, Some(3_600_000));
}

#[test]
fn a_shutdown_tells_the_coordinator_at_once_and_lets_it_save_and_stop() {
    let mut worker = open_worker();
    worker.handle(0, start(1, 0));
    assert_eq!(
        worker.handle(1, Event::Shutdown),
        [Effect::Drain { grace: 20_000 }]
    );
    assert_eq!(worker.handle(2, start(2, 0)), [], "nothing new is started");
    let effects = worker.handle(3, stop(1));
    assert_eq!(effects, [Effect::Terminate { key: key(1, 0) }]);
    worker.handle(4, exited(key(1, 0), Some(0), None));
    let effects = worker.handle(5, Event::Command(Command::Acknowledge { up_to: 1 }));
    assert_eq!(effects.last(), Some(&Effect::Exit(ExitReason::Shutdown)));
}

#[test]
fn a_new_session_hears_that_the_worker_drains() {
    let mut worker = open_worker();
    worker.handle(0, start(1, 0));
    worker.handle(1, Event::Shutdown);
    let message = "reset".to_owned();
    worker.handle(2, Event::SessionClosed { message });
    worker.handle(1_000, Event::Tick);
    let terms = SessionTerms { heartbeat: 1_000 };
    let effects = worker.handle(1_002, Event::SessionOpened { terms });
    assert!(
        matches!(effects[..], [Effect::Drain { grace }] if grace < 20_000),
        "{effects:?}"
    );
}

#[test]
fn shutdown_stops_trainers_that_nobody_stopped_tells_and_leaves() {
    let mut worker = open_worker();
    worker.handle(0, start(1, 0));
    worker.handle(1, Event::Shutdown);
    let mut effects = Vec::new();
    for now in (0..20_100).step_by(100) {
        effects.extend(worker.handle(now, Event::Tick));
    }
    effects.retain(|effect| *effect != Effect::Heartbeat);
    assert_eq!(effects, [Effect::Terminate { key: key(1, 0) }]);
    let effects = worker.handle(20_101, exited(key(1, 0), Some(0), None));
    assert_eq!(reports(&effects), [&Report::Stopped]);
    let effects = worker.handle(20_102, Event::Command(Command::Acknowledge { up_to: 1 }));
    assert_eq!(
        effects,
        [Effect::CloseSession, Effect::Exit(ExitReason::Shutdown)]
    );
    assert_eq!(worker.handle(20_103, Event::Tick), []);
    assert_eq!(worker.next_deadline(), None);
}

#[test]
fn a_second_shutdown_leaves_at_once() {
    let mut worker = open_worker();
    worker.handle(0, start(1, 0));
    worker.handle(1, Event::Shutdown);
    let effects = worker.handle(2, Event::Shutdown);
    assert_eq!(effects[0], Effect::Kill { key: key(1, 0) });
    assert_eq!(effects.last(), Some(&Effect::Exit(ExitReason::Shutdown)));
}

#[test]
fn a_taken_name_is_tried_again_then_given_up() {
    let mut worker = Worker::new(WorkerConfig::new(WorkerId::new("w").expect("a good id"), 9));
    let mut attempts = 0;
    let mut now = 0;
    let exit = loop {
        let mut effects = worker.handle(now, Event::Tick);
        if matches!(effects[..], [Effect::OpenSession { .. }]) {
            attempts += 1;
            let message = "name taken".to_owned();
            effects = worker.handle(
                now,
                Event::SessionRefused {
                    message,
                    fatal: false,
                },
            );
            let told = effects.iter().any(|effect| matches!(effect, Effect::Warn { .. }));
            assert_eq!(told, attempts == 1, "it says so once");
        }
        if let Some(Effect::Exit(reason)) = effects.last() {
            break reason.clone();
        }
        now = worker
            .next_deadline()
            .expect("it has something to wait for")
            .max(now + 1);
    };
    assert_eq!(
        exit,
        ExitReason::Refused {
            message: "name taken".to_owned()
        }
    );
    assert!((30_000..40_000).contains(&now), "{now}");
    assert!((10..60).contains(&attempts), "{attempts}");
}
