//! PR-1, PR-2, PR-3: values survive the wire, impossible ones are refused by name.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use prost::Message;
use rekindle_proto::convert::{
    SpecSource, command_to_pb, from_unix_ms, spec_from_json, spec_to_json, to_unix_ms,
};
use rekindle_proto::pb::{v1, worker::v1 as worker};
use rekindle_proto::{ApiError, ConvertError, Reason};
use rekindle_types::{
    CausalRole, CheckpointPart, Command, DeviceId, Epoch, Failure, FailureClass, FileEntry, InMemory,
    Incident, IncidentState, IncidentTimes, JobEvent, JobFile, JobId, JobSpec, JobState, LayerId,
    NotedFailure, NumberedReport, Origin, Parities, ParitySet, Plan, RankId, Rebuilt, Refill, Registration,
    Report, Section, Share, StartPoint, StartTrainer, StateDigest, StateKind, StateSource, StepReport,
    TrainerPhase, TrainerStatus, Wait, Watermark, WorkerId,
};

const JOB: &str = r#"
[job]
name = "demo"
output = "/tmp/demo"
[model]
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
[data]
train = ["/tmp/a.txt"]
seq_len = 32
[training]
steps = 10
global_batch = 8
micro_batch = 2
[optimizer]
lr = 3e-4
[parallelism]
pipeline = 2
"#;

fn spec() -> JobSpec {
    JobFile::parse(JOB).unwrap().into_spec(None).unwrap()
}

fn plan() -> Plan {
    Plan {
        job: JobId::new("demo-1").unwrap(),
        epoch: Epoch(3),
        lanes: 2,
        stages: vec![0..2, 2..4],
        workers: ["a", "b", "a", "c"].map(|w| WorkerId::new(w).unwrap()).to_vec(),
    }
}

fn step(loss: f64) -> StepReport {
    StepReport {
        step: 7,
        loss,
        grad_norm: 0.1 + 0.2,
        lr: 3e-4,
        tokens: 256,
        step_seconds: 0.01,
        epoch: Epoch(3),
        data_digest: "0".repeat(32),
        state_digest: None,
        val_loss: Some(f64::MIN_POSITIVE),
        stage_norms: vec![0.1 + 0.2, f64::MIN_POSITIVE],
    }
}

fn share(rank: u32, share: f64) -> Share {
    Share {
        rank: RankId(rank),
        share,
    }
}

fn rebuilt(layer: u32, after: u64, count_from: u64) -> Rebuilt {
    Rebuilt {
        layer,
        after,
        count_from,
    }
}

fn start() -> StartPoint {
    StartPoint {
        step: 6,
        url: "s3://b/run/checkpoints/step-00000006".to_owned(),
        rebuilt: vec![rebuilt(2, 6, 0)],
    }
}

fn part() -> CheckpointPart {
    CheckpointPart {
        step: 7,
        rank: RankId(2),
        files: vec![FileEntry {
            path: "demo-1-e3-1a/model/head.safetensors".to_owned(),
            bytes: 4108,
            header_bytes: 4096,
            header_digest: StateDigest(u128::MAX),
            dtype: "F32".to_owned(),
            sections: vec![Section {
                layer: LayerId::Head,
                kind: StateKind::Weights,
                start: 0,
                end: 3,
                offset: 4096,
                digests: vec![StateDigest(1)],
            }],
        }],
        persist_seconds: 0.1 + 0.2,
        stall_seconds: 1e-9,
    }
}

fn failure() -> Failure {
    Failure {
        class: FailureClass::NumericNan,
        rank: Some(RankId(0)),
        worker: None,
        message: "loss is NaN".to_owned(),
    }
}

/// Encodes to bytes and back, as the network does.
fn wire<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

fn report(report: Report) -> NumberedReport {
    NumberedReport {
        number: 4,
        job: JobId::new("demo-1").unwrap(),
        epoch: Epoch(3),
        rank: RankId(2),
        report,
    }
}

#[test]
fn a_part_of_another_rank_is_refused() {
    let kind = Report::Saved {
        part: Box::new(part()),
        interval: None,
    };
    let mut message = worker::NumberedReport::from(&report(kind));
    message.rank = 1;
    let error = NumberedReport::try_from(message).unwrap_err();
    assert_eq!(error.field, "saved.part_json");
}

#[test]
fn reports_survive_the_wire() {
    let all = [
        Report::Ready {
            data_address: "[::1]:5000".to_owned(),
            in_memory: in_memory(),
        },
        Report::Step(step(5.545_177_444_479_562)),
        Report::Saved {
            part: Box::new(part()),
            interval: Some(12),
        },
        Report::SaveFailed {
            step: 7,
            message: "disk full".to_owned(),
        },
        Report::WaitsForStorage { step: 8 },
        Report::Watermark(Watermark {
            step: 8,
            passes: 70,
            waits: None,
        }),
        Report::Watermark(Watermark {
            step: 8,
            passes: 71,
            waits: Some(Wait {
                on: RankId(0),
                what: "a frame".to_owned(),
                ms: 2_500,
            }),
        }),
        Report::Finished,
        Report::Failed(failure()),
        Report::Stopped,
        Report::Halted { failure: None },
        Report::Halted {
            failure: Some(failure()),
        },
    ];
    for kind in all {
        let value = report(kind);
        let back: NumberedReport = wire(&worker::NumberedReport::from(&value)).try_into().unwrap();
        assert_eq!(back, value);
    }
}

#[test]
fn commands_survive_the_wire() {
    let job = JobId::new("demo-1").unwrap();
    let all = [
        Command::Start(Box::new(StartTrainer {
            rank: RankId(3),
            spec: spec(),
            plan: plan(),
            writer: "demo-1-e3-1a".to_owned(),
            start: Some(start()),
            mtbf_seconds: 0.1 + 0.2,
            heard: Some(49),
        })),
        Command::Connect {
            job: job.clone(),
            epoch: Epoch(3),
            peers: BTreeMap::from([(RankId(0), "a:1".to_owned()), (RankId(1), "b:2".to_owned())]),
            from: Origin {
                step: Some(0),
                refills: BTreeMap::from([
                    (RankId(1), Refill::Guard(RankId(0))),
                    (
                        RankId(2),
                        Refill::Parity(Parities {
                            epoch: Epoch(4),
                            members: vec![RankId(0), RankId(2), RankId(5)],
                            from: vec![RankId(0), RankId(5)],
                        }),
                    ),
                    (RankId(3), Refill::Mean(vec![share(2, 0.1 + 0.2), share(4, 0.7)])),
                    (
                        RankId(4),
                        Refill::Best {
                            best_of: vec![share(3, 0.5), share(5, 0.5)],
                        },
                    ),
                ]),
                rebuilt: vec![rebuilt(0, 5, 0), rebuilt(7, 9, 9)],
                save: true,
            },
        },
        Command::Connect {
            job: job.clone(),
            epoch: Epoch(3),
            peers: BTreeMap::new(),
            from: Origin::default(),
        },
        Command::Forget { job: job.clone() },
        Command::Halt {
            job: job.clone(),
            epoch: Epoch(3),
            reason: "why".to_owned(),
        },
        Command::Stop {
            job,
            epoch: Epoch(3),
            reason: "why".to_owned(),
        },
        Command::Save {
            job: JobId::new("demo-1").unwrap(),
            epoch: Epoch(3),
            rank: RankId(1),
        },
        Command::Acknowledge { up_to: 9 },
    ];
    for value in all {
        let back: Command = wire(&command_to_pb(&value)).try_into().unwrap();
        assert_eq!(back, value);
    }
}

#[test]
fn registrations_survive_the_wire() {
    let value = Registration {
        worker: WorkerId::new("w1").unwrap(),
        incarnation: u64::MAX,
        version: "0.1.0".to_owned(),
        data_host: "127.0.0.1".to_owned(),
        threads: 2,
        device: DeviceId::Cuda(1),
        slots: 1,
        memory_bytes: 1 << 40,
        trainers: vec![TrainerStatus {
            job: JobId::new("demo-1").unwrap(),
            epoch: Epoch(3),
            rank: RankId(1),
            phase: TrainerPhase::Training,
            data_address: None,
            step: 6,
            in_memory: in_memory(),
        }],
        kept: vec![JobId::new("old-1").unwrap()],
    };
    let back: Registration = wire(&worker::Registration::from(&value)).try_into().unwrap();
    assert_eq!(back, value);
}

#[test]
fn more_steps_in_memory_than_there_can_be_are_refused() {
    let mut wire = worker::NumberedReport::from(&report(Report::Finished));
    wire.report = Some(worker::numbered_report::Report::Ready(worker::TrainerReady {
        data_address: "a:1".to_owned(),
        steps_in_memory: vec![1, 2, 3],
        guarded: Vec::new(),
        parity_sets: Vec::new(),
    }));
    let error = NumberedReport::try_from(wire).unwrap_err();
    assert!(error.to_string().contains("steps_in_memory"), "{error}");
}

#[test]
fn guarded_states_that_cannot_be_are_refused() {
    let state = |rank, steps: &[u64]| worker::GuardedState {
        rank,
        steps: steps.to_vec(),
    };
    for (guarded, what) in [
        (vec![state(1, &[1, 2, 3])], "3 entries"),
        (vec![state(1, &[1]), state(1, &[2])], "twice"),
        ((0..=1 << 16).map(|rank| state(rank, &[1])).collect(), "65536"),
    ] {
        let mut wire = worker::NumberedReport::from(&report(Report::Finished));
        wire.report = Some(worker::numbered_report::Report::Ready(worker::TrainerReady {
            data_address: "a:1".to_owned(),
            steps_in_memory: Vec::new(),
            guarded,
            parity_sets: Vec::new(),
        }));
        let error = NumberedReport::try_from(wire).unwrap_err();
        assert!(
            error.to_string().contains("guarded") && error.to_string().contains(what),
            "{error}"
        );
    }
}

fn in_memory() -> InMemory {
    InMemory {
        own: vec![7, 6],
        guarded: BTreeMap::from([(RankId(2), vec![7]), (RankId(0), Vec::new())]),
        parity: vec![ParitySet {
            step: 5,
            epoch: Epoch(2),
            members: vec![RankId(0), RankId(3)],
        }],
    }
}

#[test]
fn more_parities_than_there_can_be_are_refused() {
    let set = |members| worker::ParitySet {
        step: 1,
        epoch: 1,
        members: vec![0; members],
    };
    for (parity_sets, what) in [(vec![set(1); 9], "9 entries"), (vec![set(256)], "256 entries")] {
        let mut wire = worker::NumberedReport::from(&report(Report::Finished));
        wire.report = Some(worker::numbered_report::Report::Ready(worker::TrainerReady {
            data_address: "a:1".to_owned(),
            steps_in_memory: Vec::new(),
            guarded: Vec::new(),
            parity_sets,
        }));
        let error = NumberedReport::try_from(wire).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn every_state_and_class_has_its_wire_value() {
    for state in JobState::ALL {
        let there = v1::JobState::from(*state);
        assert_eq!(there.as_str_name(), format!("JOB_STATE_{state}"));
        assert_eq!(JobState::try_from(there), Ok(*state));
    }
    for class in FailureClass::ALL {
        let there = v1::FailureClass::from(*class);
        assert_eq!(there.as_str_name(), format!("FAILURE_CLASS_{class}"));
        assert_eq!(FailureClass::try_from(there), Ok(*class));
    }
}

#[test]
fn events_and_times_survive_the_wire() {
    let value = JobEvent {
        seq: 1,
        time_unix_ms: 1_764_000_000_123,
        job: JobId::new("demo-1").unwrap(),
        actor: "coordinator".to_owned(),
        kind: "plan.durable".to_owned(),
        detail: "epoch 1".to_owned(),
    };
    let back: JobEvent = wire(&v1::JobEvent::from(&value)).try_into().unwrap();
    assert_eq!(back, value);
    for ms in [0, 999, 1_000, u64::from(u32::MAX)] {
        assert_eq!(to_unix_ms(&from_unix_ms(ms)), ms);
    }
}

fn incident() -> Incident {
    Incident {
        number: 3,
        epoch: Epoch(2),
        next_epoch: Some(Epoch(3)),
        state: IncidentState::Recovered,
        failures: vec![
            NotedFailure {
                time_unix_ms: 1_764_000_000_123,
                role: CausalRole::Cascade,
                seen_by: Some(WorkerId::new("b").unwrap()),
                failure: failure(),
            },
            NotedFailure {
                time_unix_ms: 1_764_000_000_124,
                role: CausalRole::Initiating,
                seen_by: None,
                failure: failure(),
            },
        ],
        more_failures: 5,
        decision: "restart from the checkpoint of step 6".to_owned(),
        source: Some(StateSource::Checkpoint),
        source_url: Some(start().url),
        exact: true,
        last_step: Some(9),
        resumed_step: Some(6),
        times: IncidentTimes {
            detected: 1_764_000_000_123,
            decided: Some(1_764_000_000_124),
            placed: Some(1_764_000_000_999),
            ready: Some(1_764_000_001_000),
            rejoined: Some(1_764_000_002_001),
        },
    }
}

#[test]
fn incidents_survive_the_wire() {
    let back = |value: &Incident| Incident::try_from(wire(&v1::Incident::from(value)));
    let mut value = incident();
    assert_eq!(back(&value), Ok(value.clone()));
    for state in IncidentState::ALL {
        value.state = *state;
        assert_eq!(back(&value), Ok(value.clone()));
        let there = v1::IncidentState::from(*state);
        assert_eq!(there.as_str_name(), format!("INCIDENT_STATE_{state}"));
    }
    for role in CausalRole::ALL {
        value.failures[0].role = *role;
        assert_eq!(back(&value), Ok(value.clone()));
        let there = v1::CausalRole::from(*role);
        assert_eq!(there.as_str_name(), format!("CAUSAL_ROLE_{role}"));
    }
    value.source = Some(StateSource::Beginning);
    value.source_url = None;
    value.resumed_step = Some(0);
    assert_eq!(back(&value), Ok(value.clone()), "0 isn't \"not known\"");
    // Nothing but the first sight of it.
    value.next_epoch = None;
    value.source = None;
    (value.last_step, value.resumed_step) = (None, None);
    value.times = IncidentTimes {
        detected: 7,
        ..IncidentTimes::default()
    };
    value.failures.clear();
    value.decision.clear();
    assert_eq!(back(&value), Ok(value));
}

#[test]
fn impossible_incidents_name_the_field() {
    let refuse = |change: &dyn Fn(&mut v1::Incident)| {
        let mut message = v1::Incident::from(&incident());
        change(&mut message);
        Incident::try_from(message).unwrap_err().field
    };
    assert_eq!(refuse(&|i| i.number = 0), "number");
    assert_eq!(refuse(&|i| i.state = 0), "state");
    assert_eq!(refuse(&|i| i.source = 99), "source");
    assert_eq!(refuse(&|i| i.detect_time = None), "detect_time");
    assert_eq!(refuse(&|i| i.failures[0].role = 0), "failures.role");
    assert_eq!(refuse(&|i| i.failures[0].time = None), "failures.time");
    assert_eq!(refuse(&|i| i.failures[1].failure = None), "failures.failure");
    assert_eq!(
        refuse(&|i| i.failures[0].seen_by = "no name".to_owned()),
        "failures.seen_by"
    );
    let class = |i: &mut v1::Incident| i.failures[0].failure.as_mut().unwrap().class = 0;
    assert_eq!(refuse(&class), "failures.failure.class");
}

#[test]
fn a_resolved_job_survives_as_json() {
    let value = spec();
    assert_eq!(spec_from_json(&spec_to_json(&value)).unwrap(), value);
    let submitted = v1::JobSpec {
        format: Some(v1::job_spec::Format::Json(spec_to_json(&value))),
    };
    assert_eq!(
        SpecSource::try_from(wire(&submitted)).unwrap(),
        SpecSource::Resolved(Box::new(value))
    );
}

#[test]
fn impossible_messages_name_the_field() {
    let field = |e: ConvertError| e.field;
    let refuse_plan = |change: &dyn Fn(&mut v1::Plan)| {
        let mut message = v1::Plan::from(&plan());
        change(&mut message);
        field(Plan::try_from(message).unwrap_err())
    };
    assert_eq!(refuse_plan(&|p| p.lanes = 0), "plan.stages");
    assert_eq!(refuse_plan(&|p| p.lanes = 3), "plan.worker_ids");
    assert_eq!(refuse_plan(&|p| p.stages[1].first = 1), "plan.stages");
    assert_eq!(refuse_plan(&|p| p.stages[0].end = 0), "plan.stages");
    assert_eq!(refuse_plan(&|p| p.worker_ids[0].clear()), "plan.worker_id");

    let nan = worker::NumberedReport::from(&report(Report::Step(step(f64::NAN))));
    assert_eq!(field(NumberedReport::try_from(nan).unwrap_err()), "step.loss");
    let mut empty = worker::NumberedReport::from(&report(Report::Finished));
    empty.report = None;
    assert_eq!(field(NumberedReport::try_from(empty).unwrap_err()), "report");
    let unspecified = v1::Failure {
        class: 0,
        ..(&failure()).into()
    };
    assert_eq!(field(Failure::try_from(unspecified).unwrap_err()), "class");
    let unknown = v1::Failure {
        class: 999,
        ..(&failure()).into()
    };
    assert!(Failure::try_from(unknown).unwrap_err().why.contains("999"));
}

#[test]
fn unknown_keys_become_field_violations() {
    let text = JOB.replace("micro_batch", "micro_bach");
    let submitted = v1::JobSpec {
        format: Some(v1::job_spec::Format::Toml(text)),
    };
    let error = ApiError::from(SpecSource::try_from(submitted).unwrap_err());
    let status = tonic::Status::from(error.clone());
    let back = ApiError::from(&status);
    assert_eq!(back, error);
    assert_eq!(back.code, tonic::Code::InvalidArgument);
    assert_eq!(back.violations[0].field, "training.micro_bach");
    assert!(back.violations[0].description.contains("micro_batch"));
}

#[test]
fn every_reason_survives_a_status() {
    for reason in Reason::ALL {
        let error = ApiError::new(*reason, "what happened")
            .with("key", "value")
            .about("job", "demo-1");
        assert_eq!(ApiError::from(&tonic::Status::from(error.clone())), error);
    }
}

#[test]
fn a_status_of_someone_else_keeps_code_and_message() {
    let error = ApiError::from(&tonic::Status::unimplemented("no such method"));
    assert_eq!((error.code, error.reason), (tonic::Code::Unimplemented, None));
    assert_eq!(error.message, "no such method");
}

#[test]
fn views_and_plan_reports_survive_the_wire() {
    use rekindle_proto::view::{
        Checkpoint, CheckpointStatus, ClusterStatus, JobStatus, RankPhase, RankStatus, RestartBudget,
        WorkerStatus,
    };
    let job = JobStatus {
        job: Some(JobId::new("demo-1").unwrap()),
        name: "demo".to_owned(),
        state: JobState::Failed,
        state_message: "why".to_owned(),
        resource_version: 1 << 50,
        total_steps: 10,
        created_unix_ms: 1,
        started_unix_ms: Some(2),
        ended_unix_ms: None,
        output: "/tmp/demo".to_owned(),
        failure: Some(failure()),
        plan: Some(plan()),
        ranks: vec![RankStatus {
            rank: RankId(0),
            worker: WorkerId::new("a").unwrap(),
            phase: RankPhase::Ended,
            data_address: None,
        }],
        last_step: Some(step(1.0)),
        checkpoints: Some(CheckpointStatus {
            newest: Some(Checkpoint {
                step: 6,
                url: start().url,
                bytes: 9,
                state_digest: StateDigest(3),
            }),
            failures: 1,
            last_failure: Some("disk full".to_owned()),
            interval_steps: Some(2),
        }),
        start: Some(start()),
        restarts: 3,
        restart_budgets: vec![
            RestartBudget {
                class: Some(FailureClass::Hang),
                used: 1,
                most: 2,
            },
            RestartBudget {
                class: None,
                used: 3,
                most: 8,
            },
        ],
        rebuilt: vec![rebuilt(1, 4, 4), rebuilt(3, 9, 0)],
        spec: Some(Box::new(spec())),
    };
    assert_eq!(JobStatus::try_from(wire(&v1::Job::from(&job))), Ok(job));
    let worker = WorkerStatus {
        worker: WorkerId::new("a").unwrap(),
        incarnation: 3,
        connected: true,
        version: "1".to_owned(),
        data_host: "h".to_owned(),
        threads: 4,
        device: DeviceId::Cuda(3),
        slots: 5,
        used_slots: 6,
        memory_bytes: 7,
        last_seen_unix_ms: Some(8),
    };
    assert_eq!(
        WorkerStatus::try_from(wire(&v1::Worker::from(&worker))),
        Ok(worker)
    );
    let cluster = ClusterStatus {
        version: "1".to_owned(),
        api_revision: 2,
        started_unix_ms: 3,
        connected_workers: 4,
        active_jobs: 5,
    };
    let message = v1::GetClusterResponse::from(&cluster);
    assert_eq!(ClusterStatus::try_from(wire(&message)), Ok(cluster));
    let report = rekindle_plan::report(&spec(), &plan());
    let message = v1::PlanReport::from(&report);
    assert_eq!(rekindle_plan::PlanReport::try_from(wire(&message)), Ok(report));
}
