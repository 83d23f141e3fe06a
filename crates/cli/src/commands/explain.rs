//! `rekindle explain JOB`: what a job lost and what became of it.
//!
//! In: the job's incidents as the coordinator folded them. Out: a short story each for a person, or the values as JSON.

use clap::Args;
use rekindle_types::{
    CausalRole, Incident, IncidentDurations, IncidentState, JobId, NotedFailure, StateSource,
};
use serde::Serialize;

use super::events::time_of_day;
use crate::args::Remote;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::{follow, remote};

/// Arguments of `rekindle explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The job's id
    job: String,
    #[command(flatten)]
    remote: Remote,
}

/// An incident with what follows from it.
#[derive(Debug, Serialize)]
pub struct Explained<'a> {
    #[serde(flatten)]
    incident: &'a Incident,
    /// Steps that are run again.
    steps_again: Option<u64>,
    /// Lengths of the phases, milliseconds.
    durations: IncidentDurations,
}

/// Tells the job's losses, oldest first.
///
/// # Errors
/// There is no such job, or the coordinator can't be reached.
pub async fn run(args: ExplainArgs, format: Format) -> Result<Exit, Problem> {
    let id = remote::job_id(&args.job)?;
    let client = remote::connect(&args.remote).await?;
    let incidents = client
        .explain(&id)
        .await
        .map_err(|e| remote::problem(&format!("can't explain job {id}"), &e))?;
    match format {
        Format::Json => {
            let explained: Vec<_> = incidents.iter().map(explained).collect();
            output::json(&explained)?;
        }
        Format::Table => output::data(&story(&id, &incidents))?,
    }
    Ok(Exit::Ok)
}

/// An incident as it is printed for programs.
#[must_use]
pub fn explained(incident: &Incident) -> Explained<'_> {
    Explained {
        incident,
        steps_again: incident.steps_again(),
        durations: incident.durations(),
    }
}

/// All incidents as text.
fn story(id: &JobId, incidents: &[Incident]) -> String {
    let (Some(first), Some(last)) = (incidents.first(), incidents.last()) else {
        return format!("job {id} has lost nothing so far");
    };
    let mut text = match last.number {
        1 => format!("job {id} lost a part once"),
        times => format!("job {id} lost a part {times} times"),
    };
    if first.number > 1 {
        text += &format!("; incidents before number {} aren't kept", first.number);
    }
    for incident in incidents {
        text += "\n\n";
        text += &lines(incident).join("\n");
    }
    text
}

fn lines(incident: &Incident) -> Vec<String> {
    let mut lines = vec![headline(incident)];
    let mut section = |name: &str, text: String| lines.push(format!("  {name:<9} {text}"));
    for (n, noted) in incident.failures.iter().enumerate() {
        section(if n == 0 { "seen" } else { "" }, seen(noted));
    }
    if incident.more_failures > 0 {
        section("", format!("and {} more", incident.more_failures));
    }
    if !incident.decision.is_empty() {
        section("decision", incident.decision.clone());
    }
    if let Some(source) = source(incident) {
        section("state", source);
    }
    if let Some(steps) = steps(incident) {
        section("steps", steps);
    }
    for (n, phase) in phases(incident).into_iter().enumerate() {
        section(if n == 0 { "times" } else { "" }, phase);
    }
    lines
}

fn headline(incident: &Incident) -> String {
    let Incident { number, epoch, .. } = incident;
    let what = match (incident.state, incident.next_epoch) {
        (IncidentState::Tracing, _) => format!("{epoch} lost a part; the cause is being traced"),
        (IncidentState::Recovering, None) => format!("{epoch} ended; the job waits for a place to go on"),
        (IncidentState::Recovering, Some(next)) => format!("{epoch} ended, {next} starts"),
        (IncidentState::Recovered, Some(next)) => format!("{epoch} ended, {next} went on"),
        (IncidentState::Recovered, None) => format!("{epoch} ended, the job went on"),
        (IncidentState::Overtaken, _) => {
            format!("{epoch} ended, and another part was lost before the job went on")
        }
        (IncidentState::Failed, _) => format!("{epoch} ended, and the job with it"),
        (IncidentState::Cancelled, _) => {
            format!("{epoch} ended, and the job was cancelled before it went on")
        }
    };
    format!("incident {number}  {}: {what}", incident.state)
}

fn seen(noted: &NotedFailure) -> String {
    let by = match &noted.seen_by {
        Some(worker) => format!("worker {worker}"),
        None => "the coordinator".to_owned(),
    };
    format!(
        "{}  {:<10}  {} (seen by {by})",
        time_of_day(noted.time_unix_ms),
        role(noted.role),
        follow::failure_text(&noted.failure)
    )
}

fn role(role: CausalRole) -> &'static str {
    match role {
        CausalRole::Unknown => "",
        known => known.as_str(),
    }
}

fn source(incident: &Incident) -> Option<String> {
    let exact = if incident.exact { "exact" } else { "approximate" };
    let text = match (incident.source?, &incident.source_url) {
        (StateSource::Local, _) => format!("from the workers' memory, {exact}"),
        (StateSource::Shadow, _) => {
            format!("from the workers' memory, what was lost from its guards and other lanes, {exact}")
        }
        (StateSource::Parity, _) => {
            format!(
                "from the workers' memory as of the last exchange, what was lost worked out from parities, {exact}"
            )
        }
        (StateSource::NeighbourAverage, _) => {
            format!(
                "from the workers' memory, what nobody had from the stages beside it or another lane, {exact}"
            )
        }
        (StateSource::Checkpoint, Some(url)) => format!("from the checkpoint in {url}, {exact}"),
        (StateSource::Checkpoint, None) => format!("from a checkpoint, {exact}"),
        (StateSource::Beginning, _) => format!("from the beginning, {exact}"),
    };
    Some(text)
}

fn steps(incident: &Incident) -> Option<String> {
    match (incident.last_step, incident.resumed_step) {
        (Some(last), Some(from)) => {
            let again = incident.steps_again().unwrap_or(0);
            Some(format!("{last} reached, went on after {from}: {again} run again"))
        }
        (Some(last), None) => Some(format!("{last} reached")),
        (None, Some(from)) => Some(format!(
            "went on after {from}; how far it had been isn't known, as the coordinator had been restarted"
        )),
        (None, None) => None,
    }
}

/// A line per phase that was reached: when, how long it took, what it means.
fn phases(incident: &Incident) -> Vec<String> {
    let (times, took) = (incident.times, incident.durations());
    let all = [
        (Some(times.detected), "detected", None),
        (times.decided, "decided", took.decide),
        (times.placed, "placed", took.place),
        (times.ready, "ready", took.load),
        (times.rejoined, "rejoined", took.rejoin),
    ];
    let mut lines = Vec::new();
    for (at, name, took) in all {
        let Some(at) = at else { continue };
        let took = took.map_or_else(String::new, |ms| format!("  +{ms} ms"));
        lines.push(format!("{}  {name:<8}{took}", time_of_day(at)));
    }
    lines.extend(
        took.total
            .map(|ms| format!("{ms} ms from the first failure to the first step")),
    );
    lines
}

#[cfg(test)]
mod tests {
    use rekindle_types::{Epoch, Failure, FailureClass, IncidentTimes, RankId, WorkerId};

    use super::*;

    fn incident(number: u64) -> Incident {
        let noted = |role, rank: u32, class| NotedFailure {
            time_unix_ms: 1_000,
            role,
            seen_by: (rank == 1).then(|| WorkerId::new("b").expect("a good name")),
            failure: Failure {
                class,
                rank: Some(RankId(rank)),
                worker: None,
                message: "why".to_owned(),
            },
        };
        Incident {
            number,
            epoch: Epoch(1),
            next_epoch: Some(Epoch(2)),
            state: IncidentState::Recovered,
            failures: vec![
                noted(CausalRole::Cascade, 0, FailureClass::Network),
                noted(CausalRole::Initiating, 1, FailureClass::WorkerCrash),
            ],
            more_failures: 0,
            decision: "restart from the checkpoint of step 4".to_owned(),
            source: Some(StateSource::Checkpoint),
            source_url: Some("runs/j/checkpoints/step-00000004".to_owned()),
            exact: true,
            last_step: Some(9),
            resumed_step: Some(4),
            times: IncidentTimes {
                detected: 1_000,
                decided: Some(1_010),
                placed: Some(1_200),
                ready: Some(1_500),
                rejoined: Some(2_000),
            },
        }
    }

    #[test]
    fn a_story_has_cause_source_steps_and_times() {
        let id = JobId::new("j-1").expect("a good id");
        assert!(story(&id, &[]).contains("lost nothing"));
        let text = story(&id, &[incident(3), incident(4)]);
        let expected = [
            "lost a part 4 times; incidents before number 3 aren't kept",
            "incident 3  RECOVERED: e1 ended, e2 went on",
            "1970-01-01T00:00:01.000Z  CASCADE     NETWORK at rank 0: why (seen by the coordinator)",
            "INITIATING  WORKER_CRASH at rank 1: why (seen by worker b)",
            "decision  restart from the checkpoint of step 4",
            "state     from the checkpoint in runs/j/checkpoints/step-00000004, exact",
            "steps     9 reached, went on after 4: 5 run again",
            "ready     +300 ms",
            "1000 ms from the first failure to the first step",
        ];
        for part in expected {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
