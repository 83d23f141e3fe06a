//! The machine's views as the API's.

use rekindle_coordinator_core::{
    Budget, CloseReason, JobView, Millis, RankPhase as CorePhase, Rejection, WorkerView,
};
use rekindle_proto::view::{
    Checkpoint, CheckpointStatus, JobStatus, RankPhase, RankStatus, RestartBudget, WorkerStatus,
};
use rekindle_proto::{ApiError, Reason};
use rekindle_types::Violation;

pub(crate) fn job_status(view: &JobView, version: u64, with_spec: bool) -> JobStatus {
    JobStatus {
        job: Some(view.job.clone()),
        name: view.spec.job.name.clone(),
        state: view.state,
        state_message: view.reason.clone(),
        resource_version: version,
        total_steps: view.spec.training.steps,
        created_unix_ms: view.submitted_at,
        started_unix_ms: view.started_at,
        ended_unix_ms: view.ended_at,
        output: view.spec.job.output.clone(),
        failure: view.failure.clone(),
        plan: view.plan.clone(),
        ranks: view.ranks.iter().map(rank_status).collect(),
        last_step: view.last_step.clone(),
        checkpoints: view.spec.checkpoint.is_on().then(|| checkpoint_status(view)),
        start: view.start.clone(),
        restarts: view.restarts,
        restart_budgets: view.budgets.iter().map(restart_budget).collect(),
        rebuilt: view.rebuilt.clone(),
        spec: with_spec.then(|| Box::new(view.spec.clone())),
    }
}

fn restart_budget(budget: &Budget) -> RestartBudget {
    RestartBudget {
        class: budget.class,
        used: budget.used,
        most: budget.most,
    }
}

fn checkpoint_status(view: &JobView) -> CheckpointStatus {
    CheckpointStatus {
        newest: view.checkpoint.as_ref().map(|newest| Checkpoint {
            step: newest.step,
            url: newest.url.clone(),
            bytes: newest.bytes,
            state_digest: newest.state_digest,
        }),
        failures: view.failed_saves,
        last_failure: view.save_failure.clone(),
        interval_steps: view.save_interval,
    }
}

fn rank_status(rank: &rekindle_coordinator_core::RankView) -> RankStatus {
    RankStatus {
        rank: rank.rank,
        worker: rank.worker.clone(),
        phase: match rank.phase {
            CorePhase::Starting => RankPhase::Starting,
            CorePhase::Ready => RankPhase::Ready,
            CorePhase::Training => RankPhase::Training,
            CorePhase::Finished => RankPhase::Finished,
            CorePhase::Ended => RankPhase::Ended,
        },
        data_address: rank.data_address.clone(),
    }
}

pub(crate) fn worker_status(view: &WorkerView, now: Millis) -> WorkerStatus {
    WorkerStatus {
        worker: view.worker.clone(),
        incarnation: view.incarnation,
        connected: view.connected,
        version: view.version.clone(),
        data_host: view.data_host.clone(),
        threads: view.threads,
        device: view.device,
        slots: view.slots,
        used_slots: view.used,
        memory_bytes: view.memory_bytes,
        last_seen_unix_ms: Some(now.saturating_sub(view.silent_ms)),
    }
}

pub(crate) fn rejection(rejection: Rejection) -> ApiError {
    let message = rejection.to_string();
    match rejection {
        Rejection::RequestReused { request_id, job } => ApiError::new(Reason::RequestIdReused, message)
            .with("request_id", request_id)
            .about("job", job.as_str()),
        Rejection::RequestIdTooLong { .. } => ApiError::invalid(
            Reason::RequestInvalid,
            "the request",
            vec![Violation::new("request_id", message)],
        ),
        Rejection::JobExists { job } => ApiError::new(Reason::JobExists, message).about("job", job.as_str()),
        Rejection::UnknownJob { job } => ApiError {
            message,
            ..ApiError::not_found(Reason::JobNotFound, "job", job.as_str())
        },
        Rejection::JobEnded { job, state } => ApiError::new(Reason::JobEnded, message)
            .with("state", state.as_str())
            .about("job", job.as_str()),
        Rejection::NotPlaceable { .. } => ApiError::new(Reason::NotPlaceable, message),
        Rejection::TooManyJobs { .. } => ApiError::new(Reason::TooManyJobs, message),
        Rejection::Halted { .. } => ApiError::new(Reason::JournalFailed, message),
    }
}

pub(crate) fn close_reason(reason: &CloseReason) -> ApiError {
    let (code, worker) = match reason {
        CloseReason::NameTaken { worker } => (Reason::WorkerNameTaken, worker),
        CloseReason::Superseded { worker } => (Reason::SessionReplaced, worker),
        CloseReason::LeaseExpired { worker, .. } => (Reason::LeaseExpired, worker),
        CloseReason::Unusable { worker, .. } => (Reason::WorkerUnusable, worker),
    };
    ApiError::new(code, reason.to_string()).about("worker", worker.as_str())
}
