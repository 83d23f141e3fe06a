//! Whatever happens: the fold of the journal is the durable state at every cut, and every cut can be taken up.

use proptest::prelude::*;
use rekindle_coordinator_core::{CancelMode, Change, Config, Coordinator, Durable, Record, Seq};
use rekindle_types::{CausalRole, Command, FailureClass, IncidentState, JobId, Report, TrainerPhase};

use crate::desk::{Desk, failure, spec, status, step};

const WORKERS: [&str; 3] = ["a", "b", "c"];

/// Things that may happen, in any order.
#[derive(Debug, Clone)]
enum Act {
    Submit {
        request: u8,
        stages: u32,
    },
    Cancel {
        job: u64,
        now: bool,
    },
    Register {
        worker: usize,
        incarnation: u64,
        running: bool,
    },
    Lose {
        worker: usize,
    },
    Report {
        worker: usize,
        job: u64,
        rank: u32,
        what: u8,
    },
    Wait {
        ms: u64,
    },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..4_u8, 1..4_u32).prop_map(|(request, stages)| Act::Submit { request, stages }),
        (1..4_u64, any::<bool>()).prop_map(|(job, now)| Act::Cancel { job, now }),
        (0..3_usize, 1..3_u64, any::<bool>()).prop_map(|(worker, incarnation, running)| Act::Register {
            worker,
            incarnation,
            running
        }),
        (0..3_usize).prop_map(|worker| Act::Lose { worker }),
        (0..3_usize, 1..4_u64, 0..3_u32, 0..6_u8).prop_map(|(worker, job, rank, what)| Act::Report {
            worker,
            job,
            rank,
            what
        }),
        (0..3_usize, 1..3_u64, 0..3_u32, 0..3_u8).prop_map(|(worker, job, rank, what)| Act::Report {
            worker,
            job,
            rank,
            what
        }),
        (1..12_000_u64).prop_map(|ms| Act::Wait { ms }),
    ]
}

fn job(number: u64) -> JobId {
    JobId::new(format!("j-{number}")).expect("a good id")
}

fn play(desk: &mut Desk, known: &mut [bool; 3], act: &Act) {
    play_with(desk, known, act, false);
}

/// `saving`: jobs save their state, so that they start again, and reports are of the current epoch.
fn play_with(desk: &mut Desk, known: &mut [bool; 3], act: &Act, saving: bool) {
    match act {
        Act::Submit { request, stages } => {
            let mut spec = spec(*stages, 3);
            if saving {
                spec.checkpoint.every = rekindle_types::spec::Cadence::Steps(1);
            }
            let _ = desk.submit(&format!("r{request}"), spec);
        }
        Act::Cancel { job: number, now } => {
            let mode = if *now {
                CancelMode::Now
            } else {
                CancelMode::Graceful
            };
            let _ = desk.cancel(&job(*number), mode);
        }
        Act::Register {
            worker,
            incarnation,
            running,
        } => {
            let phase = TrainerPhase::Training;
            let rank = u32::try_from(*worker).expect("few workers");
            let trainers = if *running {
                vec![status(&job(1), 1, rank, phase)]
            } else {
                vec![]
            };
            let session = desk.register(WORKERS[*worker], *incarnation, 2, trainers);
            known[*worker] |= desk.accepted(session);
        }
        Act::Lose { worker } if known[*worker] => desk.lose(WORKERS[*worker]),
        Act::Report {
            worker,
            job: number,
            rank,
            what,
        } if known[*worker] => {
            let report = match what {
                0 => Report::Ready {
                    data_address: format!("h:{rank}"),
                    in_memory: rekindle_types::InMemory::own(&[u64::from(*rank % 2), 1]),
                },
                1 => Report::Step(step(u64::from(*rank) + 1)),
                2 => Report::Finished,
                3 => Report::Failed(failure(FailureClass::Network)),
                4 => Report::Failed(failure(FailureClass::WorkerCrash)),
                _ => Report::Stopped,
            };
            let job = job(*number);
            match desk.machine.job(&job).filter(|_| saving) {
                Some(view) => desk.report_of(WORKERS[*worker], &job, view.epoch.0, *rank, report),
                None => desk.report(WORKERS[*worker], &job, *rank, report),
            }
        }
        Act::Wait { ms } => desk.wait(*ms, &[]),
        Act::Lose { .. } | Act::Report { .. } => {}
    }
}

fn fold(records: &[(Seq, Record)]) -> Durable {
    let mut state = Durable::new(&Config::default());
    for (_, record) in records {
        state.apply(record).expect("a journal folds");
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_fold_of_the_journal_is_the_durable_state(acts in proptest::collection::vec(act(), 1..40)) {
        let mut desk = Desk::new();
        let mut known = [false; 3];
        for act in &acts {
            play(&mut desk, &mut known, act);
            prop_assert_eq!(&fold(&desk.journal), desk.machine.durable(), "after {:?}", act);
        }
        // Every cut can be taken up: it starts from the same fold, tells no worker anything of itself (none is
        // connected), and what it decides at once is what the journal left undecided.
        for cut in 0..=desk.journal.len() {
            let part = &desk.journal[..cut];
            let restored = Coordinator::restore(Config::default(), part.to_vec()).expect("a cut restores");
            prop_assert_eq!(&fold(part), restored.durable());
            let revived = Desk::of(restored, part.to_vec());
            prop_assert_eq!(&fold(&revived.journal), revived.machine.durable());
            let told = revived.effects.iter().any(|effect| matches!(
                effect,
                rekindle_coordinator_core::Effect::Send { command, .. } if !matches!(command, Command::Acknowledge { .. })
            ));
            prop_assert!(!told);
        }
    }

    #[test]
    fn every_failure_belongs_to_one_incident_with_one_cause(acts in proptest::collection::vec(act(), 1..60)) {
        let mut desk = Desk::new();
        let mut known = [false; 3];
        for act in &acts {
            play_with(&mut desk, &mut known, act, true);
            prop_assert_eq!(&fold(&desk.journal), desk.machine.durable(), "after {:?}", act);
        }
        let mut told = 0;
        for view in desk.machine.jobs() {
            let incidents = desk.machine.incidents(&view.job).expect("the job is known");
            for (number, incident) in (1..).zip(&incidents) {
                prop_assert_eq!(incident.number, number);
                let causes = incident.failures.iter().filter(|noted| noted.role == CausalRole::Initiating);
                prop_assert_eq!(causes.count(), usize::from(incident.times.decided.is_some()), "{:?}", incident);
                let times = incident.times;
                let reached = [Some(times.detected), times.decided, times.placed, times.ready, times.rejoined];
                let reached: Vec<u64> = reached.into_iter().flatten().collect();
                prop_assert!(reached.is_sorted(), "{:?}", incident);
                // Behind one that recovers, the next may be traced already; the verdict on it says what becomes of
                // both.
                let after = incidents.get(number as usize).map(|next| next.state);
                let newest = after.is_none_or(|next| next == IncidentState::Tracing);
                prop_assert!(!incident.is_open() || (newest && !view.state.is_terminal()), "{:?}", incident);
                prop_assert_eq!(incident.state == IncidentState::Recovered, times.rejoined.is_some());
                told += incident.failures.len();
            }
        }
        prop_assert_eq!(told, desk.changes(|change| matches!(change, Change::FailureNoted { .. })));
    }

    #[test]
    fn records_survive_json(acts in proptest::collection::vec(act(), 1..40)) {
        let mut desk = Desk::new();
        let mut known = [false; 3];
        for act in &acts {
            play(&mut desk, &mut known, act);
        }
        let text = serde_json::to_string(&desk.journal).expect("it has only finite numbers");
        let back: Vec<(Seq, Record)> = serde_json::from_str(&text).expect("it reads back");
        prop_assert_eq!(back, desk.journal);
    }

    #[test]
    fn every_job_ends_when_nobody_comes(acts in proptest::collection::vec(act(), 1..40)) {
        let mut desk = Desk::new();
        let mut known = [false; 3];
        for act in &acts {
            play(&mut desk, &mut known, act);
        }
        desk.wait(60_000, &[]);
        for view in desk.machine.jobs() {
            let waits = view.state == rekindle_types::JobState::Queued;
            prop_assert!(view.state.is_terminal() || waits, "{} is {}", view.job, view.state);
        }
    }
}
