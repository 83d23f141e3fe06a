//! Following a job until it has ended: updates of the API in, a picture for a person and the job's last state out.

use rekindle_client::{Client, JobStatus, WatchUpdate};
use rekindle_types::{JobId, JobState};

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
pub fn failure_text(failure: &rekindle_types::Failure) -> String {
    let mut text = failure.class.to_string();
    if let Some(rank) = failure.rank {
        text += &format!(" at {rank}");
    }
    if let Some(worker) = &failure.worker {
        text += &format!(" on {worker}");
    }
    format!("{text}: {}", failure.message)
}
