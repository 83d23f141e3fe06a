//! What a worker and its coordinator say to each other.

use std::collections::BTreeMap;

use rekindle_types::{
    CheckpointPart, Command, InMemory, NumberedReport, Plan, RankId, Registration, Report, StartTrainer,
    TrainerPhase, TrainerStatus, Wait, Watermark,
};

use super::job::enumeration;
use super::parity;
use super::spec::{decode, spec_to_json};
use super::{ConvertError, device, epoch, job_id, optional, required, worker_id};
use crate::pb::v1;
use crate::pb::worker::v1 as pb;

impl From<&Registration> for pb::Registration {
    fn from(r: &Registration) -> Self {
        Self {
            worker_id: r.worker.to_string(),
            incarnation: r.incarnation,
            version: r.version.clone(),
            data_host: r.data_host.clone(),
            threads: r.threads,
            slots: r.slots,
            memory_bytes: r.memory_bytes,
            trainers: r.trainers.iter().map(Into::into).collect(),
            kept_jobs: r.kept.iter().map(ToString::to_string).collect(),
            device: r.device.to_string(),
        }
    }
}

impl TryFrom<pb::Registration> for Registration {
    type Error = ConvertError;

    fn try_from(r: pb::Registration) -> Result<Self, ConvertError> {
        if r.data_host.is_empty() {
            return Err(ConvertError::new("data_host", "is empty"));
        }
        Ok(Self {
            worker: worker_id(&r.worker_id)?,
            incarnation: r.incarnation,
            version: r.version,
            data_host: r.data_host,
            threads: r.threads,
            device: device(&r.device)?,
            slots: r.slots,
            memory_bytes: r.memory_bytes,
            trainers: r
                .trainers
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, ConvertError>>()
                .map_err(|e| e.inside("trainers"))?,
            kept: r
                .kept_jobs
                .iter()
                .map(|id| job_id(id))
                .collect::<Result<_, ConvertError>>()
                .map_err(|e| e.inside("kept_jobs"))?,
        })
    }
}

impl From<&TrainerStatus> for pb::TrainerStatus {
    fn from(t: &TrainerStatus) -> Self {
        Self {
            job_id: t.job.to_string(),
            epoch: t.epoch.0,
            rank: t.rank.0,
            phase: v1::TrainerPhase::from(t.phase).into(),
            data_address: t.data_address.clone().unwrap_or_default(),
            step: t.step,
            steps_in_memory: t.in_memory.own.clone(),
            guarded: guarded_to_pb(&t.in_memory),
            parity_sets: t.in_memory.parity.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::TrainerStatus> for TrainerStatus {
    type Error = ConvertError;

    fn try_from(t: pb::TrainerStatus) -> Result<Self, ConvertError> {
        Ok(Self {
            job: job_id(&t.job_id)?,
            epoch: epoch(t.epoch),
            rank: RankId(t.rank),
            phase: enumeration::<v1::TrainerPhase, TrainerPhase>("phase", t.phase)?,
            data_address: optional(t.data_address),
            step: t.step,
            in_memory: in_memory(t.steps_in_memory, t.guarded, t.parity_sets)?,
        })
    }
}

/// More ranks than any plan has.
const MOST_GUARDED: usize = 1 << 16;

fn guarded_to_pb(in_memory: &InMemory) -> Vec<pb::GuardedState> {
    let state = |(rank, steps): (&RankId, &Vec<u64>)| pb::GuardedState {
        rank: rank.0,
        steps: steps.clone(),
    };
    in_memory.guarded.iter().map(state).collect()
}

/// What a trainer found in memory.
fn in_memory(
    own: Vec<u64>,
    states: Vec<pb::GuardedState>,
    sets: Vec<pb::ParitySet>,
) -> Result<InMemory, ConvertError> {
    if states.len() > MOST_GUARDED {
        let why = format!("has {} entries; {MOST_GUARDED} is the most", states.len());
        return Err(ConvertError::new("guarded", why));
    }
    let own = two_steps("steps_in_memory", own)?;
    let mut guarded = BTreeMap::new();
    for state in states {
        let steps = two_steps("guarded.steps", state.steps)?;
        if guarded.insert(RankId(state.rank), steps).is_some() {
            let why = format!("names rank {} twice", state.rank);
            return Err(ConvertError::new("guarded", why));
        }
    }
    let parity = parity::sets(sets)?;
    Ok(InMemory { own, guarded, parity })
}

fn two_steps(field: &'static str, steps: Vec<u64>) -> Result<Vec<u64>, ConvertError> {
    match steps.len() {
        0..=2 => Ok(steps),
        more => Err(ConvertError::new(
            field,
            format!("has {more} entries, and a trainer keeps two steps at most"),
        )),
    }
}

impl From<&NumberedReport> for pb::NumberedReport {
    fn from(r: &NumberedReport) -> Self {
        use pb::numbered_report::Report as Wire;
        Self {
            number: r.number,
            job_id: r.job.to_string(),
            epoch: r.epoch.0,
            rank: r.rank.0,
            report: Some(match &r.report {
                Report::Ready {
                    data_address,
                    in_memory,
                } => Wire::Ready(pb::TrainerReady {
                    data_address: data_address.clone(),
                    steps_in_memory: in_memory.own.clone(),
                    guarded: guarded_to_pb(in_memory),
                    parity_sets: in_memory.parity.iter().map(Into::into).collect(),
                }),
                Report::Step(step) => Wire::Step(step.into()),
                Report::Saved { part, interval } => Wire::Saved(pb::TrainerSaved {
                    part_json: part_to_json(part),
                    interval_steps: *interval,
                }),
                Report::SaveFailed { step, message } => Wire::SaveFailed(pb::TrainerSaveFailed {
                    step: *step,
                    message: message.clone(),
                }),
                Report::WaitsForStorage { step } => {
                    Wire::WaitsForStorage(pb::TrainerWaitsForStorage { step: *step })
                }
                Report::Watermark(mark) => Wire::Watermark(mark.into()),
                Report::Finished => Wire::Finished(pb::TrainerFinished {}),
                Report::Failed(failure) => Wire::Failed(failure.into()),
                Report::Stopped => Wire::Stopped(pb::TrainerStopped {}),
                Report::Halted { failure } => Wire::Halted(pb::TrainerHalted {
                    failure: failure.as_ref().map(Into::into),
                }),
            }),
        }
    }
}

impl TryFrom<pb::NumberedReport> for NumberedReport {
    type Error = ConvertError;

    fn try_from(r: pb::NumberedReport) -> Result<Self, ConvertError> {
        use pb::numbered_report::Report as Wire;
        let report = match required("report", r.report)? {
            Wire::Ready(ready) if ready.data_address.is_empty() => {
                return Err(ConvertError::new("ready.data_address", "is empty"));
            }
            Wire::Ready(ready) => Report::Ready {
                data_address: ready.data_address,
                in_memory: in_memory(ready.steps_in_memory, ready.guarded, ready.parity_sets)?,
            },
            Wire::Step(step) => Report::Step(step.try_into().map_err(|e: ConvertError| e.inside("step"))?),
            Wire::Saved(saved) => Report::Saved {
                part: Box::new(part_from_json(&saved.part_json, r.rank)?),
                interval: saved.interval_steps,
            },
            Wire::SaveFailed(failed) => Report::SaveFailed {
                step: failed.step,
                message: failed.message,
            },
            Wire::WaitsForStorage(waits) => Report::WaitsForStorage { step: waits.step },
            Wire::Watermark(mark) => Report::Watermark(mark.into()),
            Wire::Finished(_) => Report::Finished,
            Wire::Failed(failure) => {
                Report::Failed(failure.try_into().map_err(|e: ConvertError| e.inside("failed"))?)
            }
            Wire::Stopped(_) => Report::Stopped,
            Wire::Halted(halted) => {
                let failure = halted.failure.map(TryInto::try_into).transpose();
                Report::Halted {
                    failure: failure.map_err(|e: ConvertError| e.inside("halted"))?,
                }
            }
        };
        Ok(Self {
            number: r.number,
            job: job_id(&r.job_id)?,
            epoch: epoch(r.epoch),
            rank: RankId(r.rank),
            report,
        })
    }
}

impl From<&Watermark> for pb::TrainerWatermark {
    fn from(mark: &Watermark) -> Self {
        Self {
            step: mark.step,
            passes: mark.passes,
            waits: mark.waits.as_ref().map(|wait| pb::TrainerWait {
                on_rank: wait.on.0,
                what: wait.what.clone(),
                waited_ms: wait.ms,
            }),
        }
    }
}

impl From<pb::TrainerWatermark> for Watermark {
    fn from(mark: pb::TrainerWatermark) -> Self {
        Self {
            step: mark.step,
            passes: mark.passes,
            waits: mark.waits.map(|wait| Wait {
                on: RankId(wait.on_rank),
                what: wait.what,
                ms: wait.waited_ms,
            }),
        }
    }
}

fn part_to_json(part: &CheckpointPart) -> String {
    serde_json::to_string(part).expect("a part has text keys and finite numbers only")
}

fn part_from_json(text: &str, rank: u32) -> Result<CheckpointPart, ConvertError> {
    let part: CheckpointPart = serde_json::from_str(text)
        .map_err(|e| ConvertError::new("saved.part_json", format!("is no part of a checkpoint: {e}")))?;
    if part.rank.0 != rank {
        let why = format!("is of {}, reported by rank {rank}", part.rank);
        return Err(ConvertError::new("saved.part_json", why));
    }
    Ok(part)
}

/// Puts a command into the message that carries it.
#[must_use]
pub fn command_to_pb(command: &Command) -> pb::SessionResponse {
    use pb::session_response::Message;
    let message = match command {
        Command::Start(start) => Message::StartTrainer(pb::StartTrainer {
            rank: start.rank.0,
            spec_json: spec_to_json(&start.spec),
            plan: Some((&start.plan).into()),
            writer: start.writer.clone(),
            start: start.start.as_ref().map(Into::into),
            mtbf_seconds: start.mtbf_seconds,
            heard_step: start.heard,
        }),
        Command::Connect {
            job,
            epoch,
            peers,
            from,
        } => Message::ConnectTrainers(pb::ConnectTrainers {
            job_id: job.to_string(),
            epoch: epoch.0,
            peers: peers.iter().map(|(rank, at)| (rank.0, at.clone())).collect(),
            ..from.into()
        }),
        Command::Halt { job, epoch, reason } => Message::HaltTrainers(pb::HaltTrainers {
            job_id: job.to_string(),
            epoch: epoch.0,
            reason: reason.clone(),
        }),
        Command::Stop { job, epoch, reason } => Message::StopTrainers(pb::StopTrainers {
            job_id: job.to_string(),
            epoch: epoch.0,
            reason: reason.clone(),
        }),
        Command::Save { job, epoch, rank } => Message::SaveState(pb::SaveState {
            job_id: job.to_string(),
            epoch: epoch.0,
            rank: rank.0,
        }),
        Command::Forget { job } => Message::ForgetJob(pb::ForgetJob {
            job_id: job.to_string(),
        }),
        Command::Acknowledge { up_to } => Message::Acknowledge(pb::Acknowledge { up_to: *up_to }),
    };
    pb::SessionResponse {
        message: Some(message),
    }
}

/// Reads a command; [`pb::Welcome`] and [`pb::InjectFault`] are none and refused here.
impl TryFrom<pb::SessionResponse> for Command {
    type Error = ConvertError;

    fn try_from(response: pb::SessionResponse) -> Result<Self, ConvertError> {
        use pb::session_response::Message;
        match required("message", response.message)? {
            Message::Welcome(_) => Err(ConvertError::new("message", "a second welcome")),
            Message::InjectFault(_) => Err(ConvertError::new("message", "a fault is no command")),
            Message::StartTrainer(start) => Ok(Self::Start(Box::new(start_trainer(start)?))),
            Message::ConnectTrainers(c) => Ok(Self::Connect {
                job: job_id(&c.job_id)?,
                epoch: epoch(c.epoch),
                from: (&c).try_into()?,
                peers: c.peers.into_iter().map(|(rank, at)| (RankId(rank), at)).collect(),
            }),
            Message::ForgetJob(f) => Ok(Self::Forget {
                job: job_id(&f.job_id)?,
            }),
            Message::HaltTrainers(h) => Ok(Self::Halt {
                job: job_id(&h.job_id)?,
                epoch: epoch(h.epoch),
                reason: h.reason,
            }),
            Message::StopTrainers(s) => Ok(Self::Stop {
                job: job_id(&s.job_id)?,
                epoch: epoch(s.epoch),
                reason: s.reason,
            }),
            Message::SaveState(s) => Ok(Self::Save {
                job: job_id(&s.job_id)?,
                epoch: epoch(s.epoch),
                rank: RankId(s.rank),
            }),
            Message::Acknowledge(a) => Ok(Self::Acknowledge { up_to: a.up_to }),
        }
    }
}

fn start_trainer(start: pb::StartTrainer) -> Result<StartTrainer, ConvertError> {
    let plan: Plan = required("start_trainer.plan", start.plan)?.try_into()?;
    if start.rank >= plan.world() {
        let why = format!("{} in a plan of {} ranks", start.rank, plan.world());
        return Err(ConvertError::new("start_trainer.rank", why));
    }
    if start.writer.is_empty() {
        return Err(ConvertError::new("start_trainer.writer", "is empty"));
    }
    Ok(StartTrainer {
        rank: RankId(start.rank),
        spec: decode("start_trainer.spec_json", &start.spec_json)?,
        plan,
        writer: start.writer,
        start: start.start.map(TryInto::try_into).transpose()?,
        mtbf_seconds: start.mtbf_seconds,
        heard: start.heard_step,
    })
}
