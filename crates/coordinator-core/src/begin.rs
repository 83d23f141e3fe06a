//! Which state a job starts from: asked for before a plan is made, so that every rank is told the same.

use rekindle_types::spec::RecoverySource;
use rekindle_types::{Epoch, Failure, FailureClass, JobId, JobState, Plan, RankId, StartPoint};

use crate::machine::Coordinator;
use crate::{Change, Effect, StartSearch};

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

    /// What the trainers of a plan start from, once all are ready: the last step that every one of them has in memory, else what the plan
    /// says. Decided once an epoch, and durable before anybody is told. None: the job fails, as its state can't be had.
    pub(crate) fn decide_start(&mut self, id: &JobId, plan: &Plan) -> Option<Option<u64>> {
        let job = self.live.job(id)?;
        if let Some(decided) = job.connected {
            return Some(decided);
        }
        let allowed = job.spec.recovery.sources.contains(&RecoverySource::Local);
        let ranks = &self.runs.get(id)?.ranks;
        let start = job.start.as_ref().map_or(0, |start| start.step);
        let everywhere = |step: &u64| ranks.iter().all(|rank| rank.in_memory.contains(step));
        let first = ranks.first().map_or(&[][..], |rank| &rank.in_memory);
        let newest = first.iter().copied().filter(everywhere).max();
        let local = newest.filter(|step| allowed && *step >= start);
        if local.is_none() && job.ran && !job.goes_back_to_checkpoints() {
            let missing = ranks.iter().position(|rank| rank.in_memory.is_empty());
            self.refuse_to_begin_again(id, plan, missing);
            return None;
        }
        let epoch = plan.epoch;
        let job = id.clone();
        self.record(Change::Connected { job, epoch, local });
        Some(local)
    }

    /// Steps are committed, and nothing that may be used has their state: it is never silently trained again from the beginning.
    fn refuse_to_begin_again(&mut self, id: &JobId, plan: &Plan, missing: Option<usize>) {
        let rank = missing.and_then(|rank| u32::try_from(rank).ok()).map(RankId);
        let worker = rank.and_then(|rank| plan.workers.get(rank.0 as usize)).cloned();
        let failure = Failure {
            class: FailureClass::WorkerLost,
            rank,
            worker,
            message: "its state is in nobody's memory any more; with [checkpoint] in the job file the job could go on".to_owned(),
        };
        self.end(id, JobState::Failed, Some(failure));
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
