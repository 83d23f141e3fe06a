//! From failures to a verdict: the one that caused the others, not the first to be heard of.
//!
//! When a trainer dies its peers see broken connections, and their reports may well arrive first. So NETWORK and HANG
//! are weak: they wait [`crate::Config::settle`] for a strong one (a crash, a lost worker, bad data, ...), and as
//! long as a worker of the plan is disconnected, hasn't been heard of since or has just come back, within a bound of
//! three leases. A strong one ends the job at once.

use rekindle_types::{Command, Failure, FailureClass, JobId, JobState, RankId, WorkerId};

use crate::Change;
use crate::machine::Coordinator;
use rekindle_types::clock::Mono;

pub(crate) fn is_weak(class: FailureClass) -> bool {
    matches!(class, FailureClass::Network | FailureClass::Hang)
}

/// Whether a new failure says nothing that a known one doesn't: of the same place, and of no lesser weight.
pub(crate) fn covers(known: &Failure, new: &Failure) -> bool {
    let same = known.rank == new.rank && known.worker == new.worker;
    same && (is_weak(new.class) || !is_weak(known.class))
}

/// The verdict on what went wrong: the first strong failure, else the first.
fn initiating(failures: &[Failure]) -> Option<&Failure> {
    let strong = failures.iter().find(|failure| !is_weak(failure.class));
    strong.or(failures.first())
}

impl Coordinator {
    /// Takes a failure of a job that trains, as the coordinator saw it.
    pub(crate) fn note_failure(&mut self, id: &JobId, failure: Failure) {
        self.note_seen(id, failure, None);
    }

    /// Takes a failure of a job that trains, as a worker reported it or (None) the coordinator saw it. Ignored when
    /// the rank has one of no lesser weight.
    pub(crate) fn note_seen(&mut self, id: &JobId, failure: Failure, seen_by: Option<&WorkerId>) {
        let Some(job) = self.live.job(id).filter(|job| job.is_training()) else {
            return;
        };
        let epoch = job.epoch();
        let weak = is_weak(failure.class);
        if job.failures.iter().any(|known| covers(known, &failure)) {
            return;
        }
        self.record(Change::FailureNoted {
            job: id.clone(),
            epoch,
            failure,
            seen_by: seen_by.cloned(),
        });
        let now = self.mono();
        if let Some(run) = self.runs.get_mut(id) {
            run.failed_at.get_or_insert(now);
        }
        if !weak {
            self.decide(id);
        }
    }

    /// Ends a failing job with its verdict, or lets it start again.
    pub(crate) fn decide(&mut self, id: &JobId) {
        let verdict = self
            .live
            .job(id)
            .and_then(|job| initiating(&job.failures))
            .cloned();
        let Some(verdict) = verdict else { return };
        match self.no_way_on(id, &verdict) {
            None => self.requeue(id, verdict),
            Some(why) => {
                let message = format!("{}{why}", verdict.message);
                self.end(id, JobState::Failed, Some(Failure { message, ..verdict }));
            }
        }
    }

    /// When the verdict on a failing job falls if nothing more is heard.
    pub(crate) fn verdict_at(&self, id: &JobId) -> Option<Mono> {
        let failed_at = self.runs.get(id)?.failed_at?;
        let job = self.live.job(id)?;
        let (mut last_known, mut lost_at) = (failed_at, None);
        for entry in job
            .members
            .keys()
            .filter_map(|worker| self.registry.workers.get(worker))
        {
            if entry.session.is_none() || entry.heard <= failed_at {
                lost_at = lost_at.max(Some(entry.lost_at(&self.config)));
            }
            // One that has just come back brings its reports after its registration.
            last_known = last_known.max(entry.since);
        }
        let longest = self.config.lease.max(self.config.reconnect_grace) + self.config.heartbeat;
        let bound = failed_at + self.config.settle + 3 * longest;
        let settled = last_known + self.config.settle;
        Some(lost_at.map_or(settled, |lost_at| lost_at.max(settled)).min(bound))
    }

    /// Ends a job: record, stop what still runs, forget the gang.
    pub(crate) fn end(&mut self, id: &JobId, state: JobState, failure: Option<Failure>) {
        if state == JobState::Succeeded {
            self.close_incident(id);
        }
        self.commit_rest(id);
        let run = self.runs.remove(id);
        let last_step = run.and_then(|run| run.last_step);
        let reason = match &failure {
            Some(failure) => format!("the job failed: {}", crate::notes::told(failure)),
            None => format!("the job ended: {state}"),
        };
        self.record(Change::Ended {
            job: id.clone(),
            state,
            failure,
            last_step,
        });
        self.searches.remove(id);
        self.regroups.remove(id);
        self.forget_saves(id);
        self.stop_holders(id, &reason);
        self.forget(id);
    }

    /// Nobody needs what workers keep in memory for an ended job. One that isn't connected hears of it when it comes
    /// back.
    fn forget(&mut self, id: &JobId) {
        let workers: Vec<WorkerId> = self.registry.workers.keys().cloned().collect();
        for worker in workers {
            self.send(&worker, Command::Forget { job: id.clone() });
        }
    }

    /// A worker is gone: every job with unfinished ranks on it has lost them.
    pub(crate) fn worker_gone(&mut self, worker: &WorkerId, what: &str) {
        let jobs: Vec<JobId> = self.runs.keys().cloned().collect();
        for job in jobs {
            if let Some(rank) = self.unfinished_on(&job, worker).first() {
                self.lose_rank(&job, *rank, worker, what);
            }
            self.check_cancelled(&job);
        }
    }

    pub(crate) fn lose_rank(&mut self, job: &JobId, rank: RankId, worker: &WorkerId, what: &str) {
        let failure = Failure {
            class: FailureClass::WorkerLost,
            rank: Some(rank),
            worker: Some(worker.clone()),
            message: format!("worker {worker}, which ran {rank}, {what}"),
        };
        self.note_failure(job, failure);
    }

    /// The ranks of the job's plan on `worker` that aren't through.
    pub(crate) fn unfinished_on(&self, job: &JobId, worker: &WorkerId) -> Vec<RankId> {
        let Some(job) = self.live.job(job) else {
            return Vec::new();
        };
        let Some(plan) = &job.plan else {
            return Vec::new();
        };
        let open = |rank: &RankId| !job.finished.contains(rank);
        plan.ranks_of(worker).filter(open).collect()
    }

    pub(crate) fn output_failed(&mut self, job: &JobId, message: String) {
        let failure = Failure {
            class: FailureClass::OutputError,
            rank: None,
            worker: None,
            message,
        };
        match self.state_of(job) {
            Some(JobState::Queued | JobState::Recovering) => self.end(job, JobState::Failed, Some(failure)),
            Some(_) => self.note_failure(job, failure),
            None => {}
        }
        self.place_queue();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(class: FailureClass, rank: u32) -> Failure {
        Failure {
            class,
            rank: Some(RankId(rank)),
            worker: None,
            message: String::new(),
        }
    }

    #[test]
    fn the_first_strong_failure_is_the_verdict() {
        let network = failure(FailureClass::Network, 0);
        let crash = failure(FailureClass::WorkerCrash, 1);
        let late = failure(FailureClass::WorkerCrash, 2);
        let hang = failure(FailureClass::Hang, 3);
        assert_eq!(initiating(&[]), None);
        assert_eq!(initiating(&[network.clone(), hang.clone()]), Some(&network));
        assert_eq!(initiating(&[network, crash.clone(), late]), Some(&crash));
    }
}
