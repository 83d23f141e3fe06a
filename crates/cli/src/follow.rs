//! Following a job until it has ended: updates of the API in, a picture for a person and the job's last state out.

use rekindle_client::{Client, JobStatus, WatchUpdate};
use rekindle_types::{Failure, Incident, JobId, JobState};

use crate::output;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::remote;

/// Shows the job until it has ended. Returns how it stands then.
///
/// # Errors
/// There is no such job, or the coordinator has gone for good.
pub async fn follow(client: &Client, job: &JobId) -> Result<JobStatus, Problem> {
    let lost = |e| remote::problem(&format!("lost sight of job {job}"), &e);
    let known = client.get(job).await.map_err(lost)?;
    let mut progress = Progress::new(known.total_steps);
    let mut watch = client.watch(job).await.map_err(lost)?;
    while let Some(update) = watch.next().await.map_err(lost)? {
        match update {
            WatchUpdate::Snapshot(now) | WatchUpdate::Changed(now) => {
                show(&mut progress, &now, &known);
                if now.state.is_terminal() {
                    break;
                }
            }
            WatchUpdate::Step(step) => progress.step(&step),
        }
    }
    progress.close();
    // The stream ends with the job; what it ended as is asked for once more, as a stream may also end early.
    client.get(job).await.map_err(lost)
}

fn show(progress: &mut Progress, now: &JobStatus, known: &JobStatus) {
    if let Some(plan) = &now.plan {
        progress.plan(plan, known.spec.as_deref().map(|spec| &spec.model));
    }
    progress.state(now.state, &now.state_message);
    if let Some(step) = &now.last_step {
        progress.step(step);
    }
}

/// Says on stderr how a job ended, if it didn't end well.
pub fn say_end(job: &JobStatus) {
    let name = job
        .job
        .as_ref()
        .map_or_else(|| job.name.clone(), ToString::to_string);
    match (job.state, &job.failure) {
        (JobState::Failed, Some(failure)) => {
            output::say(&format!("job {name} failed: {}", failure_text(failure)));
        }
        (JobState::Failed | JobState::Cancelled, _) => {
            output::say(&format!("job {name} {}: {}", job.state, job.state_message));
        }
        (JobState::Succeeded, _) => {}
        (state, _) => output::say(&format!("job {name} has not ended: {state}")),
    }
}

/// Class, rank, worker and message of a failure in one line.
#[must_use]
pub fn failure_text(failure: &Failure) -> String {
    let mut text = failure.class.to_string();
    if let Some(rank) = failure.rank {
        text += &format!(" at {rank}");
    }
    if let Some(worker) = &failure.worker {
        text += &format!(" on {worker}");
    }
    format!("{text}: {}", failure.message)
}

/// What was lost, in how many milliseconds it was back, and where the state came from.
#[must_use]
pub fn loss_text(incident: &Incident) -> String {
    let lost = incident
        .initiating()
        .map_or_else(|| "a part".to_owned(), |noted| lost(&noted.failure));
    let at = match incident.last_step {
        Some(step) => format!(" at step {step}"),
        None => String::new(),
    };
    let took = match incident.durations().total {
        Some(ms) => format!("back in {ms} ms"),
        None => incident.state.to_string(),
    };
    let exact = if incident.exact { "exact" } else { "approximate" };
    let from = match (incident.source, incident.resumed_step) {
        (Some(source), Some(step)) => format!(", {exact}, from {source} as of step {step}"),
        _ => String::new(),
    };
    let again = match incident.steps_again() {
        Some(steps) => format!(", {steps} steps run again"),
        None => String::new(),
    };
    format!("{lost}{at}: {took}{from}{again}")
}

/// The rank and its worker, and what became of them.
fn lost(failure: &Failure) -> String {
    let rank = failure
        .rank
        .map_or_else(|| "a part".to_owned(), |rank| rank.to_string());
    let worker = failure
        .worker
        .as_ref()
        .map_or_else(String::new, |worker| format!(" on {worker}"));
    format!("{rank}{worker} ({})", failure.class)
}

#[cfg(test)]
mod tests {
    use rekindle_types::{
        CausalRole, Epoch, FailureClass, IncidentState, IncidentTimes, NotedFailure, RankId, StateSource,
    };

    use super::*;

    #[test]
    fn a_loss_in_one_line_says_what_it_was_how_fast_it_was_over_and_whence_the_state_came() {
        let failure = Failure {
            class: FailureClass::WorkerCrash,
            rank: Some(RankId(1)),
            worker: None,
            message: "why".to_owned(),
        };
        let mut incident = Incident {
            number: 1,
            epoch: Epoch(1),
            next_epoch: Some(Epoch(2)),
            state: IncidentState::Recovered,
            failures: vec![NotedFailure {
                time_unix_ms: 1_000,
                role: CausalRole::Initiating,
                seen_by: None,
                failure,
            }],
            more_failures: 0,
            decision: String::new(),
            source: Some(StateSource::Checkpoint),
            source_url: None,
            exact: true,
            last_step: Some(9),
            resumed_step: Some(4),
            times: IncidentTimes {
                detected: 1_000,
                rejoined: Some(2_000),
                ..IncidentTimes::default()
            },
        };
        let expected = "rank 1 (WORKER_CRASH) at step 9: back in 1000 ms, exact, from checkpoint as of step 4, 5 steps run again";
        assert_eq!(loss_text(&incident), expected);
        incident.times.rejoined = None;
        incident.state = IncidentState::Failed;
        (incident.source, incident.resumed_step) = (None, None);
        assert_eq!(loss_text(&incident), "rank 1 (WORKER_CRASH) at step 9: FAILED");
    }
}
