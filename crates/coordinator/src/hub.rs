//! Tells watchers what is new. Bounded: a watcher that lags behind misses what it missed and asks for a snapshot
//! (CS-3).

use std::collections::BTreeMap;
use std::sync::Arc;

use rekindle_coordinator_core::Update;
use rekindle_types::{JobEvent, JobId, StepReport};
use tokio::sync::broadcast;

use crate::view::job_status;
use rekindle_proto::view::JobStatus;

/// Updates a watcher may be behind.
const BEHIND: usize = 256;

/// One thing that is new about a job.
#[derive(Debug)]
pub(crate) enum Note {
    /// The whole job.
    Job(Box<JobStatus>),
    /// A committed step, with the job's version.
    Step(u64, StepReport),
    /// A line of its history.
    Event(JobEvent),
}

/// All watchers.
#[derive(Debug)]
pub(crate) struct Hub {
    channels: BTreeMap<JobId, broadcast::Sender<Arc<Note>>>,
    versions: BTreeMap<JobId, u64>,
    last: u64,
    first: u64,
}

impl Hub {
    /// Versions begin at the time in ms times 1024: as long as a job changes less than a million times a second on
    /// average, those of a restarted coordinator are higher than all before.
    pub(crate) fn new(now_ms: u64) -> Self {
        let first = now_ms.saturating_mul(1024);
        Self {
            channels: BTreeMap::new(),
            versions: BTreeMap::new(),
            last: first,
            first,
        }
    }

    /// The job's version.
    pub(crate) fn version(&self, job: &JobId) -> u64 {
        self.versions.get(job).copied().unwrap_or(self.first)
    }

    /// From now on, everything new about `job`.
    pub(crate) fn subscribe(&mut self, job: &JobId) -> broadcast::Receiver<Arc<Note>> {
        match self.channels.get(job) {
            Some(channel) => channel.subscribe(),
            None => {
                let (channel, receiver) = broadcast::channel(BEHIND);
                self.channels.insert(job.clone(), channel);
                receiver
            }
        }
    }

    pub(crate) fn publish(&mut self, job: &JobId, update: Update) {
        self.last += 1;
        self.versions.insert(job.clone(), self.last);
        let Some(channel) = self.channels.get(job) else {
            return;
        };
        let note = match update {
            Update::Job(view) => Note::Job(Box::new(job_status(&view, self.last, false))),
            Update::Step(report) => Note::Step(self.last, report),
            Update::Event(event) => Note::Event(event),
        };
        if channel.send(Arc::new(note)).is_err() {
            // Nobody watches any more.
            self.channels.remove(job);
        }
    }

    /// Forgets jobs that aren't `known`, when there are more than `most`.
    pub(crate) fn prune(&mut self, most: usize, known: impl Fn(&JobId) -> bool) {
        if self.versions.len() > most {
            self.versions.retain(|job, _| known(job));
            self.channels.retain(|job, _| known(job));
        }
    }
}
