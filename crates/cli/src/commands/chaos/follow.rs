//! A job that is followed while faults come: whether it has ended, and its history for the report.
//!
//! The coordinator may be away at any time, and with `rekindle run` it is gone for good soon after the job's end. So
//! the history is read from the run's folder; where this machine can't read that, the coordinator is asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rekindle_client::{Client, ClientError, JobStatus};
use rekindle_types::{Epoch, Failure, JobEvent, JobId, JobState, StepReport};
use serde::de::DeserializeOwned;

use crate::chaos::goodput;
use crate::chaos::report::JobReport;
use crate::problem::Problem;
use crate::remote;

/// A coordinator that doesn't answer for so long doesn't come back.
const GIVE_UP: Duration = Duration::from_secs(90);
/// How long the last line of a history that has ended may take to be written.
const LAST_LINE: Duration = Duration::from_secs(3);

/// The job.
#[derive(Debug)]
pub struct Followed {
    id: JobId,
    folder: PathBuf,
    state: JobState,
    failure: Option<Failure>,
    /// Ranks of the plan of each epoch that was seen.
    workers: BTreeMap<Epoch, u32>,
    unanswered_since: Option<Instant>,
}

impl Followed {
    /// Begins to follow.
    ///
    /// # Errors
    /// There is no such job, or the coordinator doesn't answer.
    pub async fn begin(client: &Client, id: JobId) -> Result<Self, Problem> {
        let failed = |e: ClientError| remote::problem(&format!("can't follow job {id}"), &e);
        let status = client.get(&id).await.map_err(failed)?;
        let output = status.output.strip_prefix("file://").unwrap_or(&status.output);
        let mut followed = Self {
            folder: PathBuf::from(output),
            state: status.state,
            failure: None,
            workers: BTreeMap::new(),
            unanswered_since: None,
            id,
        };
        followed.take(status);
        Ok(followed)
    }

    fn take(&mut self, status: JobStatus) {
        if let Some(plan) = &status.plan {
            self.workers.insert(plan.epoch, plan.world());
        }
        (self.state, self.failure) = (status.state, status.failure);
        self.unanswered_since = None;
    }

    /// Where it was when it was last looked at.
    #[must_use]
    pub fn state(&self) -> JobState {
        self.state
    }

    /// Looks at it again.
    ///
    /// # Errors
    /// The coordinator is gone for good, or doesn't know the job any more.
    pub async fn look(&mut self, client: &Client) -> Result<(), Problem> {
        if self.state.is_terminal() {
            return Ok(());
        }
        let error = match client.get(&self.id).await {
            Ok(status) => {
                self.take(status);
                return Ok(());
            }
            Err(error) => error,
        };
        // `rekindle run` ends its coordinator after the job.
        if let Some(state) = end_of(&self.history_here()) {
            self.state = state;
            return Ok(());
        }
        let since = *self.unanswered_since.get_or_insert_with(Instant::now);
        let passes = error.is_unreachable() || error.is_retryable();
        if passes && since.elapsed() < GIVE_UP {
            return Ok(());
        }
        Err(remote::problem(&format!("lost sight of job {}", self.id), &error))
    }

    /// How it stands and what its time went into.
    pub async fn report(&self, client: &Client) -> JobReport {
        let (account, unread) = match self.history(client).await {
            Ok((events, steps)) => {
                let account = goodput::account(&events, &steps, &self.workers, unix_ms());
                (Some(account), None)
            }
            Err(why) => (None, Some(why)),
        };
        JobReport {
            job: self.id.to_string(),
            state: self.state,
            failure: self.failure.clone(),
            account,
            unread,
        }
    }

    async fn history(&self, client: &Client) -> Result<(Vec<JobEvent>, Vec<StepReport>), String> {
        let started = Instant::now();
        let mut events = self.history_here();
        while self.state.is_terminal() && end_of(&events).is_none() && started.elapsed() < LAST_LINE {
            if events.is_empty() {
                return self.history_there(client).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            events = self.history_here();
        }
        if events.is_empty() {
            return self.history_there(client).await;
        }
        let steps = lines(&self.folder.join("metrics.jsonl")).unwrap_or_default();
        Ok((events, steps))
    }

    /// The job's events in the run's folder; none where that can't be read.
    fn history_here(&self) -> Vec<JobEvent> {
        let mut events: Vec<JobEvent> = lines(&self.folder.join("events.jsonl")).unwrap_or_default();
        events.retain(|event| event.job == self.id);
        events
    }

    async fn history_there(&self, client: &Client) -> Result<(Vec<JobEvent>, Vec<StepReport>), String> {
        let failed = |e: ClientError| e.to_string();
        let events = client.events(&self.id).await.map_err(failed)?;
        if events.first().is_none_or(|event| event.kind != "job.submitted") {
            let folder = self.folder.display();
            return Err(format!(
                "the coordinator has forgotten its first events; a machine that can read {folder} could tell"
            ));
        }
        let mut feed = client.metrics(&self.id, 0, false).await.map_err(failed)?;
        let mut steps = Vec::new();
        while let Some(step) = feed.next().await.map_err(failed)? {
            steps.push(step);
        }
        Ok((events, steps))
    }
}

/// How a history says that the job ended.
fn end_of(events: &[JobEvent]) -> Option<JobState> {
    events.iter().rev().find_map(|event| match event.kind.as_str() {
        "job.succeeded" => Some(JobState::Succeeded),
        "job.cancelled" => Some(JobState::Cancelled),
        "job.failed" => Some(JobState::Failed),
        _ => None,
    })
}

/// The lines of a file that can be read; what is still being written is left out.
fn lines<T: DeserializeOwned>(path: &Path) -> Option<Vec<T>> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect(),
    )
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
