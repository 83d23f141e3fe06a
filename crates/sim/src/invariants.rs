//! What must hold at every moment, checked from outside against what was written, sent and started.
//!
//! - SM-1 One plan per job and epoch; trainers are started for exactly that plan.
//! - SM-2 Durable before visible: orders, acknowledgements of ends, answers and lines depend on records on the disk
//!   only.
//! - SM-3 Nothing acts on an older (or unknown) epoch; one living trainer per job and rank on
//!   the workers the coordinator knows, beside one of an older epoch elsewhere that has halted, failed or finished.
//! - SM-4 Every job ends, and nothing is left running.
//! - SM-5 One request, one job.
//! - SM-6 A step isn't reported twice with different content (but for the epoch, where it was run again), nor after
//!   the job's end.
//! - SM-7 The fold of the journal is the durable state, and a restart can take it up.
//! - SM-8 The coordinator never halts of itself.
//! - SM-9 A job that lost a trainer names it, and of one that hangs the rank that stands still, not one that waits;
//!   one that lost none and wasn't cancelled succeeds. A job goes on after a loss as long as it may restart; one that
//!   doesn't save its state may fail when no step of it is whole in the memory of the workers that weren't lost.
//!
//! What depends on the moment at which the coordinator decides is in [`crate::decisions`], when a step is whole in
//! [`crate::whole`].

use std::collections::{BTreeMap, BTreeSet};

use rekindle_coordinator_core::{Answer, Change, Effect, Record};
use rekindle_types::{
    Command, Epoch, Failure, FailureClass, JobId, JobSpec, JobState, Plan, RankId, StartTrainer, StepReport,
    WorkerId,
};
use rekindle_worker_core::TrainerKey;

use crate::worker_side::name_of;
use crate::world::World;

/// Something that was done to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    Trainer(WorkerId, RankId),
    Worker(WorkerId),
    Hang(RankId),
    Storage,
}

/// What is known from outside.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) plans: BTreeMap<(JobId, Epoch), Plan>,
    submitted: BTreeSet<JobId>,
    finished: BTreeSet<(JobId, Epoch, RankId)>,
    ended: BTreeMap<JobId, (JobState, Option<Failure>)>,
    steps: BTreeMap<(JobId, u64), StepReport>,
    causes: BTreeMap<JobId, Vec<Cause>>,
    pub(crate) specs: BTreeMap<JobId, JobSpec>,
    /// Workers that the coordinator knew when it made a plan.
    pub(crate) known: BTreeMap<(JobId, Epoch), BTreeSet<WorkerId>>,
    /// When a step of a job was last committed, and in which epoch.
    pub(crate) committed: BTreeMap<JobId, (u64, Epoch)>,
    /// When the coordinator last heard each worker register.
    pub(crate) registered: BTreeMap<WorkerId, u64>,
    /// A step that was whole when the coordinator decided that a job has failed.
    pub(crate) whole: BTreeMap<JobId, Option<u64>>,
    /// Jobs a user wanted to end.
    pub(crate) cancelled: BTreeSet<JobId>,
}

impl Ledger {
    pub(crate) fn all_ended(&self) -> bool {
        self.submitted.iter().all(|job| self.ended.contains_key(job))
    }

    pub(crate) fn outcomes(&self) -> BTreeMap<JobId, (JobState, String)> {
        let outcome = |(job, (state, failure)): (&JobId, &(JobState, Option<Failure>))| {
            let why = failure
                .as_ref()
                .map_or(String::new(), |failure| failure.message.clone());
            (job.clone(), (*state, why))
        };
        self.ended.iter().map(outcome).collect()
    }

    fn blame(&mut self, job: &JobId, cause: Cause) {
        let causes = self.causes.entry(job.clone()).or_default();
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    }
}

impl World {
    /// A trainer is about to be killed.
    pub(crate) fn blame_trainer(&mut self, worker: usize, key: &TrainerKey) {
        self.ledger
            .blame(&key.job, Cause::Trainer(name_of(worker), key.rank));
    }

    /// A worker is about to be lost: every job that has, or is given, ranks on it may notice.
    pub(crate) fn blame_worker(&mut self, worker: usize) {
        let name = name_of(worker);
        let open =
            self.ledger.plans.iter().filter(|((job, _), plan)| {
                plan.workers.contains(&name) && !self.ledger.ended.contains_key(job)
            });
        let jobs: Vec<JobId> = open.map(|((job, _), _)| job.clone()).collect();
        for job in jobs {
            self.ledger.blame(&job, Cause::Worker(name.clone()));
        }
        // A job planned while the worker is away unnoticed gets it as well.
        self.ledger_lost.insert(name, self.now);
    }

    pub(crate) fn blame_storage(&mut self, job: &JobId) {
        self.ledger.blame(job, Cause::Storage);
    }

    pub(crate) fn blame_hang(&mut self, job: &JobId, rank: RankId) {
        self.ledger.blame(job, Cause::Hang(rank));
    }

    /// A record reached the disk.
    pub(crate) fn ledger_record(&mut self, record: &Record) {
        match &record.change {
            Change::Submitted { job, spec, .. } => {
                self.ledger.submitted.insert(job.clone());
                self.ledger.specs.insert(job.clone(), (**spec).clone());
            }
            Change::Planned { plan, start, .. } => {
                self.check_start(plan, start.as_ref());
                self.ledger_plan(plan);
            }
            Change::RankFinished { job, epoch, rank } => {
                self.ledger.finished.insert((job.clone(), *epoch, *rank));
            }
            Change::Ended {
                job, state, failure, ..
            } => self.ledger_end(job, *state, failure.clone()),
            _ => {}
        }
    }

    fn ledger_plan(&mut self, plan: &Plan) {
        let recent = |name: &&WorkerId| {
            let lost = self.ledger_lost.get(*name);
            lost.is_some_and(|at| self.now < at + 40_000)
        };
        let shaky: Vec<WorkerId> = plan.workers.iter().filter(recent).cloned().collect();
        for name in shaky {
            self.ledger.blame(&plan.job, Cause::Worker(name));
        }
        let key = (plan.job.clone(), plan.epoch);
        if self.ledger.plans.insert(key, plan.clone()).is_some() {
            let detail = format!("two plans of {} {}", plan.job, plan.epoch);
            self.violate("SM-1", detail);
        }
    }

    fn ledger_end(&mut self, job: &JobId, state: JobState, failure: Option<Failure>) {
        let causes = self.ledger.causes.get(job).cloned().unwrap_or_default();
        let wished = self.ledger.cancelled.contains(job);
        let good = match (state, &failure) {
            (JobState::Failed, Some(failure)) => {
                let saves = self
                    .ledger
                    .specs
                    .get(job)
                    .is_some_and(|spec| spec.checkpoint.is_on());
                let given_up = failure.message.contains("recovery.max_restarts")
                    || failure.class == FailureClass::CheckpointIo;
                let whole = self.ledger.whole.get(job).copied().flatten();
                explains(&causes, failure) && (given_up || (!saves && whole.is_none()))
            }
            (JobState::Succeeded, None) => self.is_through(job),
            (JobState::Cancelled, None) => wished,
            _ => false,
        };
        if !good {
            let whole = self.ledger.whole.get(job);
            let detail = format!(
                "{job} ends {state} with {failure:?}, but what happened is {causes:?}, whole is {whole:?}"
            );
            self.violate("SM-9", detail);
        }
        if self.ledger.ended.insert(job.clone(), (state, failure)).is_some() {
            self.violate("SM-4", format!("{job} ends twice"));
        }
    }

    /// Whether every rank of the job's newest plan has said that it is through.
    pub(crate) fn is_through(&self, job: &JobId) -> bool {
        let newest = self.ledger.plans.iter().rfind(|((of, _), _)| of == job);
        newest.is_some_and(|((_, epoch), plan)| {
            let done = |rank| self.ledger.finished.contains(&(job.clone(), *epoch, rank));
            plan.ranks().all(done)
                && self
                    .gangs
                    .get(&(job.clone(), *epoch))
                    .is_some_and(|gang| gang.complete)
        })
    }

    /// SM-6.
    pub(crate) fn ledger_step(&mut self, job: &JobId, report: &StepReport) {
        let key = (job.clone(), report.step);
        let before = self.ledger.steps.insert(key, report.clone());
        let same = |before: StepReport| {
            StepReport {
                epoch: report.epoch,
                ..before
            } == *report
        };
        if before.is_some_and(|before| !same(before)) {
            self.violate("SM-6", format!("step {} of {job} has two contents", report.step));
        }
        if self.ledger.ended.contains_key(job) {
            self.violate(
                "SM-6",
                format!("step {} of {job} is written after its end", report.step),
            );
        }
    }

    /// SM-2: before an effect is done.
    pub(crate) fn check_effect(&mut self, effect: &Effect) {
        let durable = self.journal.len() as u64;
        if let Some(after) = effect.after()
            && after.0 > durable
        {
            self.violate(
                "SM-2",
                format!("an effect that needs {after} with {durable} records: {effect:?}"),
            );
            return;
        }
        match effect {
            Effect::Send {
                command: Command::Start(start),
                ..
            } => {
                let key = (start.plan.job.clone(), start.plan.epoch);
                if self.ledger.plans.get(&key) != Some(&start.plan) {
                    self.violate(
                        "SM-2",
                        format!("{} {} is started before it is durable", key.0, key.1),
                    );
                }
            }
            Effect::Reply {
                answer: Ok(Answer::Submitted { job, .. }),
                ..
            } if !self.ledger.submitted.contains(job) => {
                self.violate("SM-2", format!("{job} is promised before it is durable"));
            }
            _ => {}
        }
    }

    /// SM-1, SM-3: before a trainer is started.
    pub(crate) fn check_spawn(&mut self, worker: usize, key: &TrainerKey, start: &StartTrainer) {
        let known = self.ledger.plans.get(&(key.job.clone(), key.epoch));
        if known != Some(&start.plan) {
            self.violate("SM-3", format!("w{worker} starts {key}, an epoch nobody planned"));
        } else if start.plan.workers.get(key.rank.0 as usize) != Some(&name_of(worker)) {
            self.violate("SM-1", format!("w{worker} starts {key}, which isn't its rank"));
        }
        let twice = (0..self.hosts.len()).any(|host| self.rivals(host, worker, key));
        if twice {
            self.violate("SM-3", format!("w{worker} starts {key} while another one lives"));
        }
    }

    /// Whether a host runs another trainer of the job's rank. A worker that the coordinator had to give up, or hadn't
    /// heard of since it started, when it made the plan may go on with an older epoch's, which the epoch fences off,
    /// until it hears of it: it may come back at any moment since.
    fn rivals(&self, host: usize, worker: usize, key: &TrainerKey) -> bool {
        let planned = self.ledger.known.get(&(key.job.clone(), key.epoch));
        let known = planned.is_none_or(|known| known.contains(&name_of(host)));
        let rival = |(other, process): (&TrainerKey, &crate::world::Process)| {
            let older = other.epoch < key.epoch && host != worker;
            // One that said that it failed or is through is on its way out, one that halted does nothing until it is
            // told what.
            let fenced = older && (!known || process.failed || process.finished || process.halted);
            other.job == key.job && other.rank == key.rank && !fenced
        };
        self.hosts[host].processes.iter().any(rival)
    }

    /// SM-4, SM-9: at the end of the run.
    pub(crate) fn check_end(&mut self) {
        let open: Vec<String> = self
            .ledger
            .submitted
            .iter()
            .filter(|job| !self.ledger.ended.contains_key(*job))
            .map(ToString::to_string)
            .collect();
        if !open.is_empty() {
            self.violate("SM-4", format!("never ended: {}", open.join(", ")));
        }
        let silent = self.clients.iter().filter(|client| !client.is_done()).count();
        if silent > 0 {
            self.violate("SM-4", format!("{silent} clients never got their answer"));
        }
        for worker in 0..self.hosts.len() {
            let left: Vec<String> = self.hosts[worker]
                .processes
                .keys()
                .map(ToString::to_string)
                .collect();
            if !left.is_empty() {
                self.violate("SM-4", format!("left running on w{worker}: {}", left.join(", ")));
            }
        }
    }
}

/// Whether a verdict names what was done to the job.
fn explains(causes: &[Cause], failure: &Failure) -> bool {
    causes.iter().any(|cause| match cause {
        Cause::Trainer(worker, rank) => {
            failure.class == FailureClass::WorkerCrash
                && failure.worker.as_ref() == Some(worker)
                && failure.rank == Some(*rank)
        }
        Cause::Worker(worker) => {
            failure.class == FailureClass::WorkerLost && failure.worker.as_ref() == Some(worker)
        }
        Cause::Hang(rank) => failure.class == FailureClass::Hang && failure.rank == Some(*rank),
        Cause::Storage => failure.class == FailureClass::CheckpointIo,
    })
}
