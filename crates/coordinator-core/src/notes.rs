//! From a record to its line in the job's history: actor, kind and a sentence for a person.

use rekindle_types::JobState;

use crate::Change;

/// Actor, kind and detail of the line that `change` makes.
pub(crate) fn note(change: &Change) -> (String, String, String) {
    let (actor, kind, detail) = match change {
        Change::Submitted { request_id, .. } => ("client", "job.submitted", submitted(request_id)),
        Change::Planned { plan, .. } => ("coordinator", "plan.durable", planned(plan)),
        Change::Running { epoch, .. } => (
            "coordinator",
            "job.running",
            format!("the first step of {epoch} is committed"),
        ),
        Change::RankFinished { rank, epoch, .. } => (
            "coordinator",
            "trainer.finished",
            format!("{rank} of {epoch} is through"),
        ),
        Change::FailureNoted { failure, .. } => ("coordinator", "failure.noted", told(failure)),
        Change::CancelRequested { .. } => (
            "client",
            "job.cancelling",
            "the trainers are told to stop".to_owned(),
        ),
        Change::Ended { state, failure, .. } => {
            ("coordinator", ended_kind(*state), ended(*state, failure.as_ref()))
        }
        Change::Noted {
            actor, kind, detail, ..
        } => return (actor.clone(), kind.clone(), detail.clone()),
    };
    (actor.to_owned(), kind.to_owned(), detail)
}

fn submitted(request_id: &str) -> String {
    if request_id.is_empty() {
        "queued".to_owned()
    } else {
        format!("queued, request {request_id}")
    }
}

fn planned(plan: &rekindle_types::Plan) -> String {
    let workers: Vec<&str> = plan
        .workers
        .iter()
        .map(rekindle_types::WorkerId::as_str)
        .collect();
    format!(
        "{}: {} stages x {} lanes on {}",
        plan.epoch,
        plan.stage_count(),
        plan.lanes,
        workers.join(", ")
    )
}

/// A failure with where it happened.
pub(crate) fn told(failure: &rekindle_types::Failure) -> String {
    let place = match (&failure.rank, &failure.worker) {
        (Some(rank), Some(worker)) => format!(" at {rank} on worker {worker}"),
        (Some(rank), None) => format!(" at {rank}"),
        (None, Some(worker)) => format!(" on worker {worker}"),
        (None, None) => String::new(),
    };
    format!("{}{place}: {}", failure.class, failure.message)
}

fn ended_kind(state: JobState) -> &'static str {
    match state {
        JobState::Succeeded => "job.succeeded",
        JobState::Cancelled => "job.cancelled",
        _ => "job.failed",
    }
}

fn ended(state: JobState, failure: Option<&rekindle_types::Failure>) -> String {
    match failure {
        Some(failure) => told(failure),
        None if state == JobState::Succeeded => "all ranks are through".to_owned(),
        None => "ended on the user's wish".to_owned(),
    }
}
