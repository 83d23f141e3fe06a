//! Jobs, workers and the cluster as the API tells about them.

use rekindle_types::{FailureClass, JobState, RankId};

use super::job::{enumeration, same_values};
use super::spec::decode;
use super::{
    ConvertError, device, from_unix_ms, job_id, optional, required, spec_to_json, to_unix_ms, worker_id,
};
use crate::pb::v1 as pb;
use crate::view::{
    Checkpoint, CheckpointStatus, ClusterStatus, JobStatus, RankPhase, RankStatus, RestartBudget,
    WorkerStatus,
};

same_values!(
    RankPhase,
    RankPhase,
    "phase",
    [Starting, Ready, Training, Finished, Ended]
);

impl From<&JobStatus> for pb::Job {
    fn from(job: &JobStatus) -> Self {
        Self {
            job_id: job.job.as_ref().map(ToString::to_string).unwrap_or_default(),
            name: job.name.clone(),
            state: pb::JobState::from(job.state).into(),
            state_message: job.state_message.clone(),
            resource_version: job.resource_version,
            total_steps: job.total_steps,
            create_time: Some(from_unix_ms(job.created_unix_ms)),
            start_time: job.started_unix_ms.map(from_unix_ms),
            end_time: job.ended_unix_ms.map(from_unix_ms),
            output: job.output.clone(),
            failure: job.failure.as_ref().map(Into::into),
            plan: job.plan.as_ref().map(Into::into),
            ranks: job.ranks.iter().map(Into::into).collect(),
            last_step: job.last_step.as_ref().map(Into::into),
            spec_json: job.spec.as_deref().map(spec_to_json).unwrap_or_default(),
            checkpoints: job.checkpoints.as_ref().map(Into::into),
            start: job.start.as_ref().map(Into::into),
            restarts: job.restarts,
            restart_budgets: job.restart_budgets.iter().map(Into::into).collect(),
            rebuilt: job.rebuilt.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Job> for JobStatus {
    type Error = ConvertError;

    fn try_from(job: pb::Job) -> Result<Self, ConvertError> {
        Ok(Self {
            job: optional(job.job_id).map(|text| job_id(&text)).transpose()?,
            name: job.name,
            state: enumeration::<pb::JobState, JobState>("state", job.state)?,
            state_message: job.state_message,
            resource_version: job.resource_version,
            total_steps: job.total_steps,
            created_unix_ms: to_unix_ms(&required("create_time", job.create_time)?),
            started_unix_ms: job.start_time.as_ref().map(to_unix_ms),
            ended_unix_ms: job.end_time.as_ref().map(to_unix_ms),
            output: job.output,
            failure: job.failure.map(TryInto::try_into).transpose()?,
            plan: job.plan.map(TryInto::try_into).transpose()?,
            ranks: job
                .ranks
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            last_step: job.last_step.map(TryInto::try_into).transpose()?,
            spec: optional(job.spec_json)
                .map(|text| decode("spec_json", &text).map(Box::new))
                .transpose()?,
            checkpoints: job.checkpoints.map(TryInto::try_into).transpose()?,
            start: job.start.map(TryInto::try_into).transpose()?,
            restarts: job.restarts,
            rebuilt: super::origin::rebuilt(&job.rebuilt)?,
            restart_budgets: job
                .restart_budgets
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&RestartBudget> for pb::RestartBudget {
    fn from(budget: &RestartBudget) -> Self {
        Self {
            class: budget.class.map(|class| pb::FailureClass::from(class).into()),
            used: budget.used,
            most: budget.most,
        }
    }
}

impl TryFrom<pb::RestartBudget> for RestartBudget {
    type Error = ConvertError;

    fn try_from(budget: pb::RestartBudget) -> Result<Self, ConvertError> {
        let class = |class| enumeration::<pb::FailureClass, FailureClass>("restart_budgets.class", class);
        Ok(Self {
            class: budget.class.map(class).transpose()?,
            used: budget.used,
            most: budget.most,
        })
    }
}

impl From<&CheckpointStatus> for pb::CheckpointStatus {
    fn from(status: &CheckpointStatus) -> Self {
        Self {
            newest: status.newest.as_ref().map(|newest| pb::Checkpoint {
                step: newest.step,
                url: newest.url.clone(),
                bytes: newest.bytes,
                state_digest: newest.state_digest.to_string(),
            }),
            failures: status.failures,
            last_failure: status.last_failure.clone().unwrap_or_default(),
            interval_steps: status.interval_steps,
        }
    }
}

impl TryFrom<pb::CheckpointStatus> for CheckpointStatus {
    type Error = ConvertError;

    fn try_from(status: pb::CheckpointStatus) -> Result<Self, ConvertError> {
        Ok(Self {
            newest: status.newest.map(checkpoint).transpose()?,
            failures: status.failures,
            last_failure: optional(status.last_failure),
            interval_steps: status.interval_steps,
        })
    }
}

fn checkpoint(newest: pb::Checkpoint) -> Result<Checkpoint, ConvertError> {
    let digest = newest.state_digest.parse();
    Ok(Checkpoint {
        step: newest.step,
        url: newest.url,
        bytes: newest.bytes,
        state_digest: digest
            .map_err(|why: String| ConvertError::new("checkpoints.newest.state_digest", why))?,
    })
}

impl From<&RankStatus> for pb::RankStatus {
    fn from(rank: &RankStatus) -> Self {
        Self {
            rank: rank.rank.0,
            worker_id: rank.worker.to_string(),
            phase: pb::RankPhase::from(rank.phase).into(),
            data_address: rank.data_address.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::RankStatus> for RankStatus {
    type Error = ConvertError;

    fn try_from(rank: pb::RankStatus) -> Result<Self, ConvertError> {
        Ok(Self {
            rank: RankId(rank.rank),
            worker: worker_id(&rank.worker_id)?,
            phase: enumeration::<pb::RankPhase, _>("phase", rank.phase)?,
            data_address: optional(rank.data_address),
        })
    }
}

impl From<&WorkerStatus> for pb::Worker {
    fn from(worker: &WorkerStatus) -> Self {
        Self {
            worker_id: worker.worker.to_string(),
            connected: worker.connected,
            version: worker.version.clone(),
            data_host: worker.data_host.clone(),
            threads: worker.threads,
            slots: worker.slots,
            memory_bytes: worker.memory_bytes,
            last_seen_time: worker.last_seen_unix_ms.map(from_unix_ms),
            used_slots: worker.used_slots,
            incarnation: worker.incarnation,
            device: worker.device.to_string(),
        }
    }
}

impl TryFrom<pb::Worker> for WorkerStatus {
    type Error = ConvertError;

    fn try_from(worker: pb::Worker) -> Result<Self, ConvertError> {
        Ok(Self {
            worker: worker_id(&worker.worker_id)?,
            incarnation: worker.incarnation,
            connected: worker.connected,
            version: worker.version,
            data_host: worker.data_host,
            threads: worker.threads,
            device: device(&worker.device)?,
            slots: worker.slots,
            used_slots: worker.used_slots,
            memory_bytes: worker.memory_bytes,
            last_seen_unix_ms: worker.last_seen_time.as_ref().map(to_unix_ms),
        })
    }
}

impl From<&ClusterStatus> for pb::GetClusterResponse {
    fn from(cluster: &ClusterStatus) -> Self {
        Self {
            version: cluster.version.clone(),
            api_revision: cluster.api_revision,
            start_time: Some(from_unix_ms(cluster.started_unix_ms)),
            connected_workers: cluster.connected_workers,
            active_jobs: cluster.active_jobs,
        }
    }
}

impl TryFrom<pb::GetClusterResponse> for ClusterStatus {
    type Error = ConvertError;

    fn try_from(cluster: pb::GetClusterResponse) -> Result<Self, ConvertError> {
        Ok(Self {
            version: cluster.version,
            api_revision: cluster.api_revision,
            started_unix_ms: to_unix_ms(&required("start_time", cluster.start_time)?),
            connected_workers: cluster.connected_workers,
            active_jobs: cluster.active_jobs,
        })
    }
}
