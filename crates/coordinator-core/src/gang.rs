//! From the queue to a connected gang: placement, start, connect; and stopping one.

use std::collections::BTreeMap;

use rekindle_plan::{fewer_guards, place};
use rekindle_types::{
    Command, Epoch, Failure, FailureClass, JobId, JobState, Plan, RankId, StartPoint, StartTrainer, WorkerId,
};

use crate::durable_job::DurableJob;
use crate::machine::Coordinator;
use crate::recover::GoBack;
use crate::registry::Occupant;
use crate::run::{Goal, Run};
use crate::{Change, RankPhase};

impl Coordinator {
    /// Starts jobs from the head of the queue as long as there is room, those first that lost a part. A job that
    /// doesn't fit holds up the ones behind it, so that a large one isn't passed over for ever; not so one that needs
    /// its old places back, which are kept for it anyway.
    pub(crate) fn place_queue(&mut self) {
        self.queue_notes.clear();
        let (bound, mut queue): (Vec<_>, Vec<_>) = self
            .in_state(JobState::Recovering)
            .into_iter()
            .partition(|job| self.live.job(job).is_some_and(DurableJob::lives_in_memory));
        for job in bound {
            self.place_one(&job);
        }
        queue.extend(self.in_state(JobState::Queued));
        for job in queue {
            if !self.place_one(&job) {
                break;
            }
        }
    }

    /// Jobs in a state, in order of submission.
    fn in_state(&self, state: JobState) -> Vec<JobId> {
        let of = |id: &&JobId| self.state_of(id) == Some(state);
        self.live.in_order().into_iter().filter(of).cloned().collect()
    }

    /// Whether the next job of the queue may be looked at.
    fn place_one(&mut self, id: &JobId) -> bool {
        let Some(job) = self.live.job(id) else {
            return true;
        };
        let spec = job.spec.clone();
        let epoch = job.epoch().next();
        let slots = self.slots_for(id);
        if let Some(why) = self.regroups(id, &slots) {
            self.queue_notes.insert(id.clone(), why.to_owned());
            return false;
        }
        // What is exact is taken first; making up is left for when its time to come back is over (`regroups`).
        let exact = self
            .same_again(id, &slots)
            .or_else(|| self.stand_in(id, &slots, GoBack::Yes));
        let again = exact.or_else(|| self.make_do(id, &slots));
        let placed = match again {
            Some(plan) => Ok(plan),
            None if job.state == JobState::Recovering && job.lives_in_memory() => {
                return self.wait_for_memory(id, &slots);
            }
            None => place(id, epoch, &spec, &slots),
        };
        match placed {
            Ok(plan) if self.stop_unkept(id, &plan) => {
                let why = "waits for trainers to stop that it has no place for";
                self.queue_notes.insert(id.clone(), why.to_owned());
                return false;
            }
            Ok(plan) => {
                let Some((start, epoch)) = self.start_point(id) else {
                    let why = "looks for the state to start from";
                    self.queue_notes.insert(id.clone(), why.to_owned());
                    return false;
                };
                self.start_plan(Plan { epoch, ..plan }, start);
            }
            Err(error @ rekindle_plan::PlaceError::NotEnoughWorkers { .. }) => {
                self.queue_notes.insert(id.clone(), error.to_string());
                return false;
            }
            Err(error) => {
                let failure = Failure {
                    class: FailureClass::ConfigInvalid,
                    rank: None,
                    worker: None,
                    message: error.to_string(),
                };
                self.end(id, JobState::Failed, Some(failure));
            }
        }
        true
    }

    fn start_plan(&mut self, plan: Plan, start: Option<StartPoint>) {
        let mut members = BTreeMap::new();
        for worker in &plan.workers {
            let entry = self.registry.workers.get(worker);
            let incarnation = entry.and_then(crate::registry::Worker::incarnation).unwrap_or(0);
            members.insert(worker.clone(), incarnation);
        }
        let run = Run::new(&plan, self.mono(), &self.config);
        self.runs.insert(plan.job.clone(), run);
        self.searches.remove(&plan.job);
        self.regroups.remove(&plan.job);
        // The time keeps writers of different coordinators apart that use one place, one after the other.
        let writer = format!("{}-{}-{:x}", plan.job, plan.epoch, self.clock.wall());
        self.record(Change::Planned {
            plan: plan.clone(),
            members,
            writer,
            start,
        });
        let fewer = self
            .live
            .job(&plan.job)
            .and_then(|job| fewer_guards(&job.spec, &plan));
        if let Some(fewer) = fewer {
            self.note(&plan.job, "recovery.fewer_guards", fewer);
        }
        for (rank, worker) in plan.ranks().zip(&plan.workers) {
            self.start_rank(&plan, rank, worker);
        }
    }

    /// Tells a worker to start a rank. Harmless when it runs already.
    pub(crate) fn start_rank(&mut self, plan: &Plan, rank: RankId, worker: &WorkerId) {
        let Some(job) = self.live.job(&plan.job) else {
            return;
        };
        let start = StartTrainer {
            rank,
            spec: (*job.spec).clone(),
            plan: plan.clone(),
            writer: job.writer.clone(),
            start: job.start.clone(),
            mtbf_seconds: job.mtbf_seconds(self.clock.wall()),
            heard: job.reached,
        };
        if let Some(entry) = self.registry.workers.get_mut(worker) {
            let occupant = Occupant::new(plan.epoch);
            entry.occupants.insert((plan.job.clone(), rank), occupant);
        }
        self.send(worker, Command::Start(Box::new(start)));
    }

    /// Tells the ranks that wait for it whom to connect to, once all addresses are known.
    pub(crate) fn connect_gang(&mut self, job: &JobId) {
        let Some(plan) = self.training_plan(job) else {
            return;
        };
        let Some((waiting, peers)) = self.runs.get(job).and_then(Run::to_connect) else {
            return;
        };
        let Some(from) = self.decide_start(job, &plan) else {
            return;
        };
        let now = self.mono();
        for rank in waiting {
            let Some(worker) = plan.workers.get(rank.0 as usize) else {
                continue;
            };
            if self
                .registry
                .workers
                .get(worker)
                .is_none_or(|entry| entry.session.is_none())
            {
                continue;
            }
            let command = Command::Connect {
                job: job.clone(),
                epoch: plan.epoch,
                peers: peers.clone(),
                from: from.clone(),
            };
            self.send(worker, command);
            if let Some(state) = self.runs.get_mut(job).and_then(|run| run.rank_mut(rank)) {
                (state.phase, state.told_connect) = (RankPhase::Training, now);
            }
        }
        self.aim_if_connected(job);
    }

    /// A gang whose last rank was told to connect owes its first step.
    pub(crate) fn aim_if_connected(&mut self, job: &JobId) {
        let now = self.clock.mono();
        if let Some(run) = self.runs.get_mut(job)
            && run.goal == Goal::Start
            && run.is_connected()
        {
            run.aim(Goal::FirstStep, now, &self.config);
            self.note_reloaded(job);
        }
    }

    /// The plan of a job whose trainers are wanted and of which nothing has failed.
    pub(crate) fn training_plan(&self, job: &JobId) -> Option<Plan> {
        let sound = self.live.job(job)?.failures.is_empty();
        self.wanted_plan(job).filter(|_| sound)
    }

    /// The plan of a job whose trainers are not to be stopped (also while a failure is traced to its cause).
    pub(crate) fn wanted_plan(&self, job: &JobId) -> Option<Plan> {
        let job = self.live.job(job)?;
        job.plan.clone().filter(|_| job.is_training())
    }

    /// Tells every worker with trainers of `job` to stop them.
    pub(crate) fn stop_holders(&mut self, job: &JobId, reason: &str) {
        for worker in self.registry.holders(job) {
            self.stop_on(&worker, job, Epoch(u64::MAX), reason);
        }
    }

    /// Tells one worker to stop its trainers of `job` up to an epoch.
    pub(crate) fn stop_on(&mut self, worker: &WorkerId, job: &JobId, up_to: Epoch, reason: &str) {
        let now = self.mono();
        let Some(entry) = self.registry.workers.get_mut(worker) else {
            return;
        };
        let mut newest = None;
        for ((of, _), occupant) in &mut entry.occupants {
            if of == job && occupant.epoch <= up_to {
                occupant.told_stop = Some(now);
                newest = newest.max(Some(occupant.epoch));
            }
        }
        if let Some(epoch) = newest {
            let command = Command::Stop {
                job: job.clone(),
                epoch,
                reason: reason.to_owned(),
            };
            self.send(worker, command);
        }
    }

    /// A trainer speaks that no plan has: it gets a slot in the books until it is gone, and is told to stop. One that
    /// was told to halt may have spoken before it heard that.
    pub(crate) fn stop_stray(&mut self, worker: &WorkerId, job: &JobId, rank: RankId, epoch: Epoch) {
        let member = self.wanted_plan(job).is_some_and(|plan| plan.epoch == epoch);
        let Some(entry) = self.registry.workers.get_mut(worker).filter(|_| !member) else {
            return;
        };
        let new = Occupant::new(epoch);
        let occupant = entry.occupants.entry((job.clone(), rank)).or_insert(new);
        let halts = occupant.halt_unanswered().is_some();
        if occupant.epoch == epoch && occupant.told_stop.is_none() && !halts {
            self.stop_on(worker, job, epoch, "no current plan has this trainer");
        }
    }

    /// Frees the slot of a trainer that ended.
    pub(crate) fn release(&mut self, worker: &WorkerId, job: &JobId, rank: RankId, epoch: Epoch) {
        let Some(entry) = self.registry.workers.get_mut(worker) else {
            return;
        };
        let key = (job.clone(), rank);
        if entry
            .occupants
            .get(&key)
            .is_some_and(|occupant| occupant.epoch <= epoch)
        {
            entry.occupants.remove(&key);
        }
    }
}
