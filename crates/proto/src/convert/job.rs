//! States, failures, plans, step reports, events.

use rekindle_types::{
    Failure, FailureClass, JobEvent, JobState, Plan, RankId, StartPoint, StepReport, TrainerPhase,
};

use super::{ConvertError, epoch, from_unix_ms, job_id, optional, required, to_unix_ms, worker_id};
use crate::pb::v1 as pb;

/// Two enums that have the same values, the wire's with a value for "not set" on top.
macro_rules! same_values {
    ($ours:ident, $wire:ident, $field:literal, [$($value:ident),+ $(,)?]) => {
        impl From<$ours> for pb::$wire {
            fn from(value: $ours) -> Self {
                match value { $($ours::$value => Self::$value,)+ }
            }
        }

        impl TryFrom<pb::$wire> for $ours {
            type Error = ConvertError;

            fn try_from(value: pb::$wire) -> Result<Self, ConvertError> {
                match value {
                    $(pb::$wire::$value => Ok(Self::$value),)+
                    pb::$wire::Unspecified => Err(ConvertError::new($field, "is not set")),
                }
            }
        }
    };
}

pub(super) use same_values;

same_values!(
    JobState,
    JobState,
    "state",
    [
        Queued, Planning, Starting, Running, Recovering, Cancelling, Succeeded, Failed, Cancelled
    ]
);
same_values!(
    FailureClass,
    FailureClass,
    "class",
    [
        WorkerCrash,
        WorkerLost,
        Hang,
        DataError,
        NumericNan,
        ConfigInvalid,
        Network,
        OutputError,
        CheckpointIo,
        CheckpointCorrupt,
        OomDevice,
        GpuXid,
        Internal
    ]
);
same_values!(TrainerPhase, TrainerPhase, "phase", [Loading, Ready, Training]);

/// Reads an enum field.
pub(super) fn enumeration<W, T>(field: &str, number: i32) -> Result<T, ConvertError>
where
    W: TryFrom<i32>,
    T: TryFrom<W, Error = ConvertError>,
{
    let known = W::try_from(number).map_err(|_| ConvertError::new(field, format!("{number} is unknown")))?;
    T::try_from(known)
}

impl From<&Failure> for pb::Failure {
    fn from(failure: &Failure) -> Self {
        Self {
            class: pb::FailureClass::from(failure.class).into(),
            rank: failure.rank.map(|r| r.0),
            worker_id: failure
                .worker
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            message: failure.message.clone(),
        }
    }
}

impl TryFrom<pb::Failure> for Failure {
    type Error = ConvertError;

    fn try_from(failure: pb::Failure) -> Result<Self, ConvertError> {
        Ok(Self {
            class: enumeration::<pb::FailureClass, _>("class", failure.class)?,
            rank: failure.rank.map(RankId),
            worker: optional(failure.worker_id)
                .map(|text| worker_id(&text))
                .transpose()?,
            message: failure.message,
        })
    }
}

impl From<&StartPoint> for pb::StartPoint {
    fn from(start: &StartPoint) -> Self {
        Self {
            step: start.step,
            url: start.url.clone(),
            rebuilt: start.rebuilt.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::StartPoint> for StartPoint {
    type Error = ConvertError;

    fn try_from(start: pb::StartPoint) -> Result<Self, ConvertError> {
        if start.url.is_empty() {
            return Err(ConvertError::new("start.url", "is empty"));
        }
        Ok(Self {
            step: start.step,
            rebuilt: super::origin::rebuilt(&start.rebuilt)?,
            url: start.url,
        })
    }
}

impl From<&Plan> for pb::Plan {
    fn from(plan: &Plan) -> Self {
        let range = |r: &std::ops::Range<u32>| pb::LayerRange {
            first: r.start,
            end: r.end,
        };
        Self {
            job_id: plan.job.to_string(),
            epoch: plan.epoch.0,
            lanes: plan.lanes,
            stages: plan.stages.iter().map(range).collect(),
            worker_ids: plan.workers.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<pb::Plan> for Plan {
    type Error = ConvertError;

    fn try_from(plan: pb::Plan) -> Result<Self, ConvertError> {
        let world = u64::from(plan.lanes) * plan.stages.len() as u64;
        if world == 0 {
            return Err(ConvertError::new("plan.stages", "no lanes or no stages"));
        }
        if world != plan.worker_ids.len() as u64 {
            let why = format!("{} workers for {world} ranks", plan.worker_ids.len());
            return Err(ConvertError::new("plan.worker_ids", why));
        }
        check_contiguous(&plan.stages)?;
        Ok(Self {
            job: job_id(&plan.job_id).map_err(|e| e.inside("plan"))?,
            epoch: epoch(plan.epoch),
            lanes: plan.lanes,
            stages: plan.stages.iter().map(|r| r.first..r.end).collect(),
            workers: plan
                .worker_ids
                .iter()
                .map(|text| worker_id(text))
                .collect::<Result<_, _>>()
                .map_err(|e| e.inside("plan"))?,
        })
    }
}

fn check_contiguous(stages: &[pb::LayerRange]) -> Result<(), ConvertError> {
    let mut next = 0;
    for stage in stages {
        if stage.first != next || stage.end <= stage.first {
            let why = format!(
                "layers {}..{} where a run from {next} on is due",
                stage.first, stage.end
            );
            return Err(ConvertError::new("plan.stages", why));
        }
        next = stage.end;
    }
    Ok(())
}

impl From<&StepReport> for pb::StepReport {
    fn from(step: &StepReport) -> Self {
        Self {
            step: step.step,
            loss: step.loss,
            grad_norm: step.grad_norm,
            lr: step.lr,
            tokens: step.tokens,
            step_seconds: step.step_seconds,
            epoch: step.epoch.0,
            data_digest: step.data_digest.clone(),
            state_digest: step.state_digest.clone().unwrap_or_default(),
            val_loss: step.val_loss,
            stage_norms: step.stage_norms.clone(),
        }
    }
}

impl TryFrom<pb::StepReport> for StepReport {
    type Error = ConvertError;

    fn try_from(step: pb::StepReport) -> Result<Self, ConvertError> {
        let finite = [
            ("loss", step.loss),
            ("grad_norm", step.grad_norm),
            ("lr", step.lr),
            ("step_seconds", step.step_seconds),
            ("val_loss", step.val_loss.unwrap_or(0.0)),
        ];
        // metrics.jsonl can't hold anything else (JSON has no NaN), and a step that isn't finite must not commit.
        if let Some((field, value)) = finite.iter().find(|(_, value)| !value.is_finite()) {
            return Err(ConvertError::new(
                *field,
                format!("{value} is not a finite number"),
            ));
        }
        Ok(Self {
            step: step.step,
            loss: step.loss,
            grad_norm: step.grad_norm,
            lr: step.lr,
            tokens: step.tokens,
            step_seconds: step.step_seconds,
            epoch: epoch(step.epoch),
            data_digest: step.data_digest,
            state_digest: optional(step.state_digest),
            val_loss: step.val_loss,
            stage_norms: step.stage_norms.clone(),
        })
    }
}

impl From<&JobEvent> for pb::JobEvent {
    fn from(event: &JobEvent) -> Self {
        Self {
            seq: event.seq,
            time: Some(from_unix_ms(event.time_unix_ms)),
            job_id: event.job.to_string(),
            actor: event.actor.clone(),
            kind: event.kind.clone(),
            detail: event.detail.clone(),
        }
    }
}

impl TryFrom<pb::JobEvent> for JobEvent {
    type Error = ConvertError;

    fn try_from(event: pb::JobEvent) -> Result<Self, ConvertError> {
        Ok(Self {
            seq: event.seq,
            time_unix_ms: to_unix_ms(&required("time", event.time)?),
            job: job_id(&event.job_id)?,
            actor: event.actor,
            kind: event.kind,
            detail: event.detail,
        })
    }
}
