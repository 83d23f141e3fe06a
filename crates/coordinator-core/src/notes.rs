//! From a record to its line in the job's history: actor, kind and a sentence for a person.

use std::collections::BTreeMap;

use rekindle_types::{JobState, RankId, Refill, Share};

use crate::Change;

/// Actor, kind and detail of the line that `change` makes.
pub(crate) fn note(change: &Change) -> (String, String, String) {
    let (actor, kind, detail) = match change {
        Change::Submitted {
            request_id, resume, ..
        } => ("client", "job.submitted", submitted(request_id, *resume)),
        Change::Planned { plan, start, .. } => ("coordinator", "plan.durable", planned(plan, start.as_ref())),
        Change::Connected {
            epoch,
            local,
            refills,
            save,
            ..
        } => (
            "coordinator",
            "plan.connected",
            connected(*epoch, *local, refills, *save),
        ),
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
        Change::CheckpointCommitted { checkpoint, .. } => {
            ("coordinator", "checkpoint.committed", committed(checkpoint))
        }
        Change::CheckpointFailed { step, message, .. } => (
            "coordinator",
            "checkpoint.failed",
            format!("the state after step {step} is not saved: {message}"),
        ),
        Change::Requeued { failure, refused, .. } => (
            "coordinator",
            "job.recovering",
            requeued(failure, refused.as_deref()),
        ),
        Change::Reloaded { epoch, .. } => (
            "coordinator",
            "recovery.loaded",
            format!("all trainers of {epoch} are ready and were told to connect"),
        ),
        Change::IncidentClosed { summary, .. } => ("coordinator", "incident.closed", summary.clone()),
        Change::CancelRequested { save, .. } => (
            "client",
            "job.cancelling",
            if *save {
                "the trainers are told to save their state, then to stop".to_owned()
            } else {
                "the trainers are told to stop".to_owned()
            },
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

fn submitted(request_id: &str, resume: bool) -> String {
    let how = if resume {
        ", to go on from its newest checkpoint"
    } else {
        ""
    };
    if request_id.is_empty() {
        format!("queued{how}")
    } else {
        format!("queued{how}, request {request_id}")
    }
}

fn committed(checkpoint: &crate::CommittedCheckpoint) -> String {
    let crate::CommittedCheckpoint {
        step,
        url,
        bytes,
        state_digest,
    } = checkpoint;
    format!("the state after step {step} ({bytes} bytes, digest {state_digest}) is in {url}")
}

fn requeued(failure: &rekindle_types::Failure, refused: Option<&str>) -> String {
    let refused = refused.map_or_else(String::new, |url| format!("; {url} is not tried again"));
    format!("{}; it goes on under a new plan{refused}", told(failure))
}

fn planned(plan: &rekindle_types::Plan, start: Option<&rekindle_types::StartPoint>) -> String {
    let workers: Vec<&str> = plan
        .workers
        .iter()
        .map(rekindle_types::WorkerId::as_str)
        .collect();
    let from = match start {
        Some(start) => format!(", from step {} in {}", start.step, start.url),
        None => String::new(),
    };
    format!(
        "{}: {} stages x {} lanes on {}{from}",
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

fn connected(
    epoch: rekindle_types::Epoch,
    local: Option<u64>,
    refills: &BTreeMap<RankId, Refill>,
    save: bool,
) -> String {
    let from = match local {
        Some(step) => format!(" and go on from the state of step {step} in their workers' memory"),
        None => String::new(),
    };
    let first = if save { ", which they save first" } else { "" };
    let sends: String = refills
        .iter()
        .map(|(rank, refill)| refilled(*rank, refill))
        .collect();
    format!("{epoch}: all trainers are ready{from}{sends}{first}")
}

fn refilled(rank: RankId, refill: &Refill) -> String {
    match refill {
        Refill::Guard(guard) => format!(", what was guarded of {rank} from {guard}'s"),
        Refill::Parity(parities) if parities.from.contains(&rank) => String::new(),
        Refill::Parity(parities) => {
            let names: Vec<String> = parities.from.iter().map(ToString::to_string).collect();
            format!(", that of {rank} worked out from what {} have", names.join(", "))
        }
        Refill::Mean(shares) => made_up(rank, &parts(shares), "approximate"),
        Refill::Best { best_of } => {
            let how = "or other shares with a lower loss on a micro-batch; approximate";
            made_up(rank, &parts(best_of), how)
        }
    }
}

fn parts(shares: &[Share]) -> String {
    let parts = shares
        .iter()
        .map(|share| format!("{:.3} of {}'s", share.share, share.rank));
    parts.collect::<Vec<_>>().join(" and ")
}

fn made_up(rank: RankId, parts: &str, how: &str) -> String {
    format!(", that of {rank}, which nobody has, made of {parts} ({how})")
}
