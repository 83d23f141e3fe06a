//! Incidents in words: one sentence for a decision, one for the whole. Pure text; nothing is decided here.

use rekindle_types::{Failure, FailureClass, Incident, StateSource};

use crate::Millis;
use crate::notes::told;

/// The decision to start again from `origin`.
pub(crate) fn restart(origin: &str, verdict: &Failure) -> String {
    format!("restart from {origin}, because {}", loss(verdict))
}

/// The decision not to go on.
pub(crate) fn failed(failure: &Failure) -> String {
    format!("the job failed because of {}", told(failure))
}

/// Where the state came from.
pub(crate) fn origin(incident: &Incident) -> String {
    match (incident.source, incident.resumed_step) {
        (Some(StateSource::Local), Some(step)) => format!("the state of step {step} in memory"),
        (Some(StateSource::Shadow), Some(step)) => {
            format!("the state of step {step} in memory, what was lost of it from its guards and other lanes")
        }
        (Some(StateSource::Parity), Some(step)) => format!(
            "the state of step {step} in memory, which groups exchanged then, what was lost worked out from parities"
        ),
        (Some(StateSource::NeighbourAverage), Some(step)) => {
            format!(
                "the state of step {step} in memory, and where nobody had it that of the stages beside it or of another lane"
            )
        }
        (Some(StateSource::Checkpoint), Some(step)) => format!("the checkpoint of step {step}"),
        _ => "the beginning".to_owned(),
    }
}

/// What happened to which part.
fn loss(failure: &Failure) -> String {
    let place = match (&failure.rank, &failure.worker) {
        (Some(rank), Some(worker)) => format!("{rank} on worker {worker}"),
        (Some(rank), None) => rank.to_string(),
        (None, Some(worker)) => format!("worker {worker}"),
        (None, None) => "a part of the job".to_owned(),
    };
    let what = match failure.class {
        FailureClass::CheckpointCorrupt => "found the checkpoint damaged that it was to load",
        FailureClass::Hang => "stood still",
        FailureClass::Network => "lost a connection",
        FailureClass::GpuXid => "had its device fail",
        _ => "was lost",
    };
    format!("{place} {what} ({})", failure.class)
}

/// The incident in one sentence, as it stands at `at`.
pub(crate) fn summary(incident: &Incident, at: Millis) -> String {
    let lost = match incident.initiating() {
        Some(noted) => loss(&noted.failure),
        None => "a part of the job was lost".to_owned(),
    };
    let rejoined = incident.times.rejoined.unwrap_or(at);
    let took = rejoined.saturating_sub(incident.times.detected);
    let again = match incident.steps_again() {
        Some(1) => "1 step was run again".to_owned(),
        Some(steps) => format!("{steps} steps were run again"),
        None => "how many steps were run again isn't known, as the coordinator had been restarted".to_owned(),
    };
    let exact = if incident.exact { "exact" } else { "approximate" };
    let origin = origin(incident);
    format!(
        "{lost}; the job went on from {origin} ({exact}) {took} ms after the first failure was noted; {again}"
    )
}
