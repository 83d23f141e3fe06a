//! Trainers that outlive their epoch: halted where a job lost a part, given the next plan where it keeps them (CO-8).
//!
//! ```text
//!   Requeued --> Halt --Halted--> the trainer waits; its slot is its job's --next plan keeps the rank there--> Start (the worker edits it)
//!                  | no answer, no place in time, another place                                       (Command::Start is the same either way)
//!                  v
//!                Stop, as for any other trainer
//! ```
//!
//! A trainer of a worker that isn't connected, that leaves, or on which one stands still is stopped: nothing is
//! gained by waiting for it. Whether a process is edited or another one started is the worker's business; here both
//! are a rank that isn't ready yet.

use rekindle_plan::Slot;
use rekindle_types::{Command, Epoch, Failure, FailureClass, JobId, JobState, Plan, RankId, WorkerId};

use crate::begin::Search;
use crate::machine::Coordinator;

impl Coordinator {
    /// Tells the trainers of a job that lost a part to give their epoch up.
    pub(crate) fn halt_holders(&mut self, job: &JobId, failure: &Failure, reason: &str) {
        for worker in self.registry.holders(job) {
            let hangs = failure.class == FailureClass::Hang && failure.worker.as_ref() == Some(&worker);
            let entry = self.registry.workers.get(&worker);
            let hears = entry.is_some_and(|entry| entry.session.is_some() && !entry.draining);
            match hears && !hangs {
                true => self.halt_on(&worker, job, reason),
                false => self.stop_on(&worker, job, Epoch(u64::MAX), reason),
            }
        }
    }

    fn halt_on(&mut self, worker: &WorkerId, job: &JobId, reason: &str) {
        let now = self.mono();
        let Some(entry) = self.registry.workers.get_mut(worker) else {
            return;
        };
        let mut newest = None;
        for ((of, _), occupant) in &mut entry.occupants {
            if of == job && !occupant.halted {
                occupant.told_halt = Some(now);
                newest = newest.max(Some(occupant.epoch));
            }
        }
        if let Some(epoch) = newest {
            let command = Command::Halt {
                job: job.clone(),
                epoch,
                reason: reason.to_owned(),
            };
            self.send(worker, command);
        }
    }

    /// A trainer says that it waits.
    pub(crate) fn mark_halted(&mut self, worker: &WorkerId, job: &JobId, rank: RankId, epoch: Epoch) {
        let entry = self.registry.workers.get_mut(worker);
        let occupant = entry.and_then(|entry| entry.occupants.get_mut(&(job.clone(), rank)));
        if let Some(occupant) = occupant.filter(|occupant| occupant.epoch == epoch) {
            occupant.halted = true;
        }
    }

    /// A trainer of a job that trains gave its epoch up by itself.
    pub(crate) fn halted(&mut self, job: &JobId, rank: RankId, worker: &WorkerId, failure: Option<Failure>) {
        let unasked = || Failure {
            class: FailureClass::Network,
            rank: None,
            worker: None,
            message: "it halted without being told why".to_owned(),
        };
        self.failed(job, rank, worker, failure.unwrap_or_else(unasked));
    }

    /// The slots of a job's trainers that wait.
    pub(crate) fn waiting_slots(&self, id: &JobId) -> Vec<Slot> {
        let threads = |worker: &WorkerId| {
            let info = self
                .registry
                .workers
                .get(worker)
                .and_then(|entry| entry.info.as_ref());
            info.map_or(1, |info| info.threads)
        };
        let slot = |(worker, _): (&WorkerId, RankId)| Slot {
            worker: worker.clone(),
            threads: threads(worker),
        };
        self.registry.waiting(id).map(slot).collect()
    }

    /// Stops the trainers of workers on which one waits that `plan` has no use for: a stop is a worker's, for all
    /// ranks that it has of the job. Whether there are any: the plan can't be carried out before they are gone.
    pub(crate) fn stop_unkept(&mut self, id: &JobId, plan: &Plan) -> bool {
        let before = self.live.job(id).and_then(|job| job.plan.as_ref());
        let same_cut = before.is_some_and(|before| before.is_cut_as(plan));
        let unkept =
            |(worker, rank): &(&WorkerId, RankId)| !same_cut || plan.worker_of(*rank) != Some(*worker);
        let workers: Vec<WorkerId> = self
            .registry
            .waiting(id)
            .filter(unkept)
            .map(|(worker, _)| worker.clone())
            .collect();
        for worker in &workers {
            self.stop_on(
                worker,
                id,
                Epoch(u64::MAX),
                "the next plan has no place for one of its trainers",
            );
        }
        !workers.is_empty()
    }

    /// Stops the trainers on a worker that wait: it leaves, and their next plan has no place for them there.
    pub(crate) fn stop_waiting_on(&mut self, worker: &WorkerId) {
        let entry = self.registry.workers.get(worker);
        let all = entry.into_iter().flat_map(|entry| &entry.occupants);
        let waits = all.filter(|(_, occupant)| occupant.waits());
        let jobs: Vec<JobId> = waits.map(|((job, _), _)| job.clone()).collect();
        for job in jobs {
            if self.state_of(&job) == Some(JobState::Recovering) {
                self.stop_on(worker, &job, Epoch(u64::MAX), "its worker was asked to leave");
            }
        }
    }

    /// Trainers that weren't heard to halt are stopped, and so are those whose job found no place in time.
    pub(crate) fn expire_halts(&mut self) {
        let (now, limit) = (self.mono(), self.config.resend_stop);
        let mut due = Vec::new();
        for (name, entry) in &self.registry.workers {
            for ((job, _), occupant) in &entry.occupants {
                let unanswered = occupant.halt_unanswered().is_some_and(|told| now >= told + limit);
                let waited = occupant.waits() && self.waited(job);
                if unanswered || waited {
                    due.push((name.clone(), job.clone()));
                }
            }
        }
        due.dedup();
        for (worker, job) in due {
            self.stop_on(&worker, &job, Epoch(u64::MAX), "it isn't waited for any longer");
        }
    }

    /// Whether the time is over in which a job that lost a part waits for its old places.
    fn waited(&self, job: &JobId) -> bool {
        let by = self.regroups.get(job).copied();
        let over = by.is_none_or(|by| self.mono() >= by);
        self.state_of(job) == Some(JobState::Recovering) && over && !self.looks_for_state(job)
    }

    /// Whether the job's place is found, and only the state to start from is looked for: that ends by itself. Not so
    /// where a job before it in the queue has no place, which may be because of these very trainers.
    fn looks_for_state(&self, job: &JobId) -> bool {
        let looks = matches!(
            self.searches.get(job),
            Some(Search::Asked { .. } | Search::Later { .. })
        );
        looks && self.queue_notes.contains_key(job)
    }
}
