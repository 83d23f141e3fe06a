//! A job that lost a part: whether it may go on, and from when on it is placed again (CO-8).
//!
//! All its trainers are stopped; it waits in state RECOVERING for the slots it had, for a while; then it goes on with what is there,
//! under a new epoch, every rank from the newest valid checkpoint.

use rekindle_types::spec::RecoverySource;
use rekindle_types::{Failure, FailureClass, JobId, JobState};

use crate::Change;
use crate::machine::Coordinator;

/// Losses that may be mended by starting again; the others would only come again.
fn passes(class: FailureClass) -> bool {
    matches!(
        class,
        FailureClass::WorkerCrash
            | FailureClass::WorkerLost
            | FailureClass::Hang
            | FailureClass::Network
            | FailureClass::CheckpointCorrupt
    )
}

impl Coordinator {
    /// Why a job can't go on after this failure; None: it can.
    pub(crate) fn no_way_on(&self, id: &JobId, failure: &Failure) -> Option<String> {
        let Some(job) = self.live.job(id) else {
            return Some(String::new());
        };
        if !passes(failure.class) {
            return Some(String::new());
        }
        if !job.spec.checkpoint.is_on() {
            return Some(
                "; the job saves no checkpoints to go on from (see [checkpoint] in the job file)".to_owned(),
            );
        }
        if !job.spec.recovery.sources.contains(&RecoverySource::Checkpoint) {
            return Some("; recovery.sources allows nothing to go on from".to_owned());
        }
        if failure.class == FailureClass::CheckpointCorrupt && job.start.is_none() {
            return Some(String::new());
        }
        let most = job.spec.recovery.max_restarts;
        (job.restarts >= most).then(|| {
            format!("; it was restarted {most} times since its last checkpoint (recovery.max_restarts)")
        })
    }

    /// Gives up the job's trainers and lets it wait for workers to go on with.
    pub(crate) fn requeue(&mut self, id: &JobId, failure: Failure) {
        let Some(job) = self.live.job(id) else { return };
        let (epoch, start) = (job.epoch(), job.start.clone());
        let corrupt = failure.class == FailureClass::CheckpointCorrupt;
        let refused = start.filter(|_| corrupt).map(|start| start.url);
        let last_step = self.runs.remove(id).and_then(|run| run.last_step);
        self.searches.remove(id);
        self.regroups
            .insert(id.clone(), self.mono() + self.config.regroup);
        let reason = format!("the job starts again: {}", crate::notes::told(&failure));
        self.record(Change::Requeued {
            job: id.clone(),
            epoch,
            failure,
            refused,
            last_step: last_step.map(|step| step.step),
        });
        self.forget_saves(id);
        self.stop_holders(id, &reason);
    }

    /// What a recovering job waits for before it is placed: its old trainers to be gone (or their worker lost), and for a while as
    /// many slots as it had.
    pub(crate) fn regroups(&self, id: &JobId, free: usize) -> Option<&'static str> {
        if self.state_of(id) != Some(JobState::Recovering) {
            return None;
        }
        if !self.registry.holders(id).is_empty() {
            return Some("waits for its trainers to stop");
        }
        let by = *self.regroups.get(id)?;
        let had = self.live.job(id)?.plan.as_ref()?.world() as usize;
        (free < had && self.mono() < by).then_some("waits for its workers to come back")
    }
}
