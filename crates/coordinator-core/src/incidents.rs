//! Records that are made for the sake of incidents alone: late failures, milestones, the closing line. What they add
//! up to is folded in [`crate::story`].

use rekindle_types::{Failure, Incident, IncidentState, JobId, JobState, RankId, WorkerId};

use crate::Change;
use crate::machine::Coordinator;
use crate::telling::summary;
use crate::verdict::covers;

impl Coordinator {
    /// A trainer of a job that starts again failed as well, before it was stopped: that belongs to the story and
    /// changes nothing else.
    pub(crate) fn note_late(&mut self, id: &JobId, rank: RankId, worker: &WorkerId, failure: Failure) {
        let Some(job) = self.live.job(id).filter(|job| job.state == JobState::Recovering) else {
            return;
        };
        let failure = Failure {
            rank: failure.rank.or(Some(rank)),
            worker: failure.worker.or_else(|| Some(worker.clone())),
            ..failure
        };
        let (epoch, last) = (job.epoch(), job.story.last());
        let known =
            last.is_none_or(|last| last.failures.iter().any(|noted| covers(&noted.failure, &failure)));
        if !known {
            self.record(Change::FailureNoted {
                job: id.clone(),
                epoch,
                failure,
                seen_by: Some(worker.clone()),
            });
        }
    }

    /// All trainers of a plan were told to connect: a milestone where the plan mends a loss.
    pub(crate) fn note_reloaded(&mut self, id: &JobId) {
        let Some(job) = self.live.job(id).filter(|job| job.is_training()) else {
            return;
        };
        let epoch = job.epoch();
        let waits = |incident: &Incident| {
            incident.state == IncidentState::Recovering
                && incident.next_epoch == Some(epoch)
                && incident.times.ready.is_none()
        };
        if job.story.last().is_some_and(waits) {
            self.record(Change::Reloaded {
                job: id.clone(),
                epoch,
            });
        }
    }

    /// Tells the end of a story: the job has gone on, or ends well without another step.
    pub(crate) fn close_incident(&mut self, id: &JobId) {
        let at = self.clock.wall();
        let Some(job) = self.live.job(id) else { return };
        let incident = job.story.to_close(job.all_finished());
        let Some((number, summary)) = incident.map(|found| (found.number, summary(found, at))) else {
            return;
        };
        self.record(Change::IncidentClosed {
            job: id.clone(),
            number,
            summary,
        });
    }
}
