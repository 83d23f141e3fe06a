//! Which state a job starts from: asked for before a plan is made, so that every rank is told the same.

use rekindle_types::{Epoch, Failure, FailureClass, JobId, JobState, StartPoint};

use crate::machine::Coordinator;
use crate::{Effect, StartSearch};

/// How far the search for a job's first state is. Not journalled: after a restart it is made again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Search {
    /// The shell looks.
    Asked,
    /// It has looked: this state, or none but the job's first weights; the epoch has to be newer than this.
    Found(Option<StartPoint>, Epoch),
}

impl Coordinator {
    /// The state the job is to start from, and the epoch of its next plan; None while that isn't known yet.
    pub(crate) fn start_point(&mut self, id: &JobId) -> Option<(Option<StartPoint>, Epoch)> {
        let job = self.live.job(id)?;
        let saves = job.spec.checkpoint.is_on();
        if !saves && !job.resume && job.spec.init_checkpoint().is_none() {
            return Some((None, job.epoch().next()));
        }
        match self.searches.get(id) {
            Some(Search::Found(start, after)) => {
                return Some((start.clone(), job.epoch().max(*after).next()));
            }
            Some(Search::Asked) => return None,
            None => {}
        }
        let search = match (job.state, job.resume) {
            (JobState::Recovering, _) => StartSearch::Again,
            (_, true) => StartSearch::Resume,
            (_, false) => StartSearch::Fresh,
        };
        let (spec, refused) = (job.spec.clone(), job.refused.clone());
        self.searches.insert(id.clone(), Search::Asked);
        let after = self.after();
        self.emit(Effect::FindStart {
            job: id.clone(),
            spec,
            search,
            refused,
            after,
        });
        None
    }

    pub(crate) fn start_found(
        &mut self,
        id: &JobId,
        found: Result<Option<StartPoint>, String>,
        after_epoch: Epoch,
        notes: Vec<(String, String)>,
    ) {
        let waits = self
            .state_of(id)
            .is_some_and(|state| matches!(state, JobState::Queued | JobState::Recovering));
        if !waits || self.searches.get(id) != Some(&Search::Asked) {
            return;
        }
        for (kind, detail) in notes {
            self.note(id, &kind, detail);
        }
        match found {
            Ok(start) => {
                self.searches
                    .insert(id.clone(), Search::Found(start, after_epoch));
            }
            Err(message) => {
                let failure = Failure {
                    class: FailureClass::ConfigInvalid,
                    rank: None,
                    worker: None,
                    message,
                };
                self.end(id, JobState::Failed, Some(failure));
            }
        }
        self.place_queue();
    }
}
