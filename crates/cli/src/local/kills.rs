//! Processes of a local cluster that are killed on purpose while a job trains, and what the coordinator tells of each
//! loss.
//!
//! In: at which steps what is killed. Out: a line to a person for every kill and every recovery. Who is killed is a
//! function of the cluster: the middle one of those that it can be done to. Deliberately absent: what the losses
//! mean; that is the caller's to say.

use std::time::Duration;

use rekindle_client::{Client, ClientError, WatchUpdate};
use rekindle_types::{Fault, FaultKind, FaultTarget, Incident, JobId};

use crate::follow::loss_text;
use crate::output;
use crate::problem::Problem;
use crate::remote;

/// How often the coordinator is asked what became of a loss, or whether there is anybody to kill.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A process that is killed.
#[derive(Debug, Clone, Copy)]
pub struct Kill {
    /// Once this step is committed.
    pub after_step: u64,
    /// Which sort of process.
    pub kind: FaultKind,
}

/// Does all kills in order, and tells what became of each. The coordinator must allow faults. Ends with the last one,
/// or with the job.
///
/// # Errors
/// The coordinator is gone for good, or doesn't allow faults.
pub async fn all(client: &Client, job: &JobId, kills: &[Kill]) -> Result<(), Problem> {
    let lost = |e: ClientError| remote::problem(&format!("can't disturb job {job}"), &e);
    for kill in kills {
        let Some(step) = reached(client, job, kill.after_step).await.map_err(lost)? else {
            return Ok(());
        };
        let known = client.explain(job).await.map_err(lost)?.len();
        let Some(target) = hit(client, job, kill.kind).await.map_err(lost)? else {
            return Ok(());
        };
        output::say(&format!("step {step}: killed {target} (SIGKILL), on purpose"));
        let Some(incident) = overcome(client, job, known).await.map_err(lost)? else {
            return Ok(());
        };
        output::say(&format!("lost {}", loss_text(&incident)));
    }
    Ok(())
}

/// Waits for a step; the step that is committed then. None: the job has ended before.
async fn reached(client: &Client, job: &JobId, step: u64) -> Result<Option<u64>, ClientError> {
    let mut watch = client.watch(job).await?;
    while let Some(update) = watch.next().await? {
        let last = match update {
            WatchUpdate::Snapshot(now) | WatchUpdate::Changed(now) if now.state.is_terminal() => {
                return Ok(None);
            }
            WatchUpdate::Snapshot(now) | WatchUpdate::Changed(now) => now.step(),
            WatchUpdate::Step(report) => report.step,
        };
        if last >= step {
            return Ok(Some(last));
        }
    }
    Ok(None)
}

/// Kills the middle one of those there are, once there is one. None: the job has ended before.
async fn hit(client: &Client, job: &JobId, kind: FaultKind) -> Result<Option<FaultTarget>, ClientError> {
    let fault = Fault { kind, hold_ms: 0 };
    while !client.get(job).await?.state.is_terminal() {
        let mut targets = client.fault_targets().await?;
        targets.retain(|target| kind.suits(target));
        if let Some(target) = targets.get(targets.len() / 2) {
            match client.inject_fault(&fault, target).await {
                Ok(()) => return Ok(Some(target.clone())),
                Err(error) if error.is_unimplemented() => return Err(error),
                // It went away just now.
                Err(_) => {}
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(None)
}

/// Waits until the incident after the first `known` ones is over, or the job.
async fn overcome(client: &Client, job: &JobId, known: usize) -> Result<Option<Incident>, ClientError> {
    loop {
        let incidents = client.explain(job).await?;
        if let Some(incident) = incidents
            .get(known..)
            .and_then(|new| new.iter().find(|i| !i.is_open()))
        {
            return Ok(Some(incident.clone()));
        }
        if client.get(job).await?.state.is_terminal() {
            return Ok(None);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}
