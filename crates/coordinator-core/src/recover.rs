//! A job that lost a part: whether it may go on, and from when on it is placed again (CO-8).
//!
//! All its trainers give the epoch up ([`crate::edits`]); it waits in state RECOVERING for the slots it had, for a
//! while; then it goes on with what is there, under a new epoch, every rank from the same step: one that all have in
//! memory, or the newest valid checkpoint.

use std::collections::BTreeSet;

use rekindle_plan::{Slot, guards_of, twins};
use rekindle_types::spec::RecoverySource;
use rekindle_types::{Failure, FailureClass, JobId, JobState, Plan, RankId, Share};

use crate::Change;
use crate::average::made_of;
use crate::budget::{Budget, budgets};
use crate::durable_job::DurableJob;
use crate::machine::Coordinator;
use crate::parity::outlived;

/// Whether ranks may move to where only the state of a group's last exchange can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoBack {
    /// They may.
    Yes,
    /// Only to where the newest state is: a lost worker may still come back with it.
    No,
}

/// The ranks of a plan whose workers have no room for them, and the slots that the others leave.
fn displaced(plan: &Plan, slots: &[Slot]) -> (BTreeSet<RankId>, Vec<Slot>) {
    let (mut displaced, mut left) = (BTreeSet::new(), slots.to_vec());
    for (rank, worker) in plan.ranks().zip(&plan.workers) {
        match left.iter().position(|slot| slot.worker == *worker) {
            Some(at) => drop(left.remove(at)),
            None => drop(displaced.insert(rank)),
        }
    }
    (displaced, left)
}

/// Puts ranks on slots, one after the other where the plan has the fewest ranks by then. None: there are too few slots.
fn move_to(plan: &mut Plan, ranks: &BTreeSet<RankId>, mut slots: Vec<Slot>) -> Option<()> {
    for rank in ranks {
        let has = |slot: &Slot| plan.ranks_of(&slot.worker).count();
        let (at, _) = slots.iter().enumerate().min_by_key(|(_, slot)| has(slot))?;
        let worker = slots.remove(at).worker;
        *plan.workers.get_mut(rank.0 as usize)? = worker;
    }
    Some(())
}

impl Coordinator {
    /// Why a job can't go on after this failure; None: it can.
    pub(crate) fn no_way_on(&self, id: &JobId, failure: &Failure) -> Option<String> {
        let Some(job) = self.live.job(id) else {
            return Some(String::new());
        };
        if !failure.class.may_pass() {
            return Some(String::new());
        }
        let sources = &job.spec.recovery.sources;
        if !job.goes_back_to_checkpoints() && !sources.contains(&RecoverySource::Local) {
            let why = match job.spec.checkpoint.is_on() {
                true => "; recovery.sources allows nothing to go on from",
                false => {
                    "; the job saves no checkpoints to go on from (see [checkpoint] and [recovery] in the job file)"
                }
            };
            return Some(why.to_owned());
        }
        if failure.class == FailureClass::CheckpointCorrupt && job.start.is_none() {
            return Some(String::new());
        }
        let budgets = budgets(job);
        let of = |budget: &Budget| budget.class.is_none_or(|class| class == failure.class);
        budgets
            .into_iter()
            .find(|budget| of(budget) && budget.used >= budget.most)
            .map(|budget| budget.used_up())
    }

    /// Gives up the job's trainers and lets it wait for workers to go on with.
    pub(crate) fn requeue(&mut self, id: &JobId, failure: Failure) {
        let Some(job) = self.live.job(id) else { return };
        let (epoch, start) = (job.epoch(), job.start.clone());
        let corrupt = failure.class == FailureClass::CheckpointCorrupt;
        let refused = start.filter(|_| corrupt).map(|start| start.url);
        self.commit_rest(id);
        let last_step = self.runs.remove(id).and_then(|run| run.last_step);
        self.searches.remove(id);
        self.regroups
            .insert(id.clone(), self.mono() + self.config.regroup);
        let reason = format!(
            "the job goes on under another plan: {}",
            crate::notes::told(&failure)
        );
        let verdict = failure.clone();
        self.record(Change::Requeued {
            job: id.clone(),
            epoch,
            failure,
            refused,
            last_step: last_step.as_ref().map(|step| step.step),
            stage_norms: last_step.map(|step| step.stage_norms).unwrap_or_default(),
        });
        self.forget_saves(id);
        self.halt_holders(id, &verdict, &reason);
    }

    /// The plan a recovering job had, if every one of its workers has room for its ranks: they may have the state in
    /// memory.
    pub(crate) fn same_again(&self, id: &JobId, slots: &[Slot]) -> Option<Plan> {
        let job = self
            .live
            .job(id)
            .filter(|job| job.state == JobState::Recovering)?;
        let plan = job.plan.as_ref()?;
        let epoch = plan.epoch.next();
        displaced(plan, slots).0.is_empty().then(|| Plan {
            epoch,
            ..plan.clone()
        })
    }

    /// The ranks that have to move of whose guards none is left to give them their state, nor, where that may be,
    /// enough of their groups.
    fn unguarded(
        &self,
        id: &JobId,
        plan: &Plan,
        displaced: &BTreeSet<RankId>,
        go_back: GoBack,
    ) -> BTreeSet<RankId> {
        let Some(job) = self.live.job(id) else {
            return BTreeSet::new();
        };
        let guards = guards_of(&job.spec, plan);
        let knows = |rank: &RankId| {
            let worker = plan.worker_of(*rank).filter(|_| !displaced.contains(rank));
            worker.is_some_and(|worker| self.remembers(job, id, worker))
        };
        let outlived = match go_back {
            GoBack::Yes => outlived(job, plan, &plan.ranks().filter(|rank| !knows(rank)).collect()),
            GoBack::No => BTreeSet::new(),
        };
        let has_twin = |rank: &RankId| twins(plan, *rank).any(|twin| knows(&twin));
        let whole = |rank: &RankId| !job.guards_keep_moments_alone() || has_twin(rank);
        let guarded =
            |rank: &RankId| guards.get(rank).is_some_and(|all| all.iter().any(knows)) && whole(rank);
        let lost = |rank: &RankId| !guarded(rank) && !outlived.contains(rank);
        displaced.iter().copied().filter(lost).collect()
    }

    /// The first of the ranks that have to move whose state nobody is left to give or, where that is allowed, to be
    /// made up of.
    fn beyond_help(&self, id: &JobId, plan: &Plan, displaced: &BTreeSet<RankId>) -> Option<RankId> {
        let job = self.live.job(id)?;
        let lost = self.unguarded(id, plan, displaced, GoBack::Yes);
        let gone = |share: &Share| {
            let worker = plan.worker_of(share.rank);
            displaced.contains(&share.rank) || !worker.is_some_and(|worker| self.remembers(job, id, worker))
        };
        let part = displaced.difference(&lost).copied().collect();
        match job.makes_up().then(|| made_of(job, plan, &lost, &part)) {
            Some(Ok(means)) if !means.values().flatten().any(gone) => None,
            _ => lost.first().copied(),
        }
    }

    /// The same with the ranks of lost workers on others, if what is left has their guards or, where that may be,
    /// enough of their groups.
    pub(crate) fn stand_in(&self, id: &JobId, slots: &[Slot], go_back: GoBack) -> Option<Plan> {
        let has_others = |job: &DurableJob| job.is_shadowed() || job.keeps_parities();
        self.moved(id, slots, has_others, |plan, lost| {
            self.unguarded(id, plan, lost, go_back).is_empty()
        })
    }

    /// The same if what nobody has may be made up.
    pub(crate) fn make_do(&self, id: &JobId, slots: &[Slot]) -> Option<Plan> {
        self.moved(id, slots, DurableJob::makes_up, |plan, lost| {
            self.beyond_help(id, plan, lost).is_none()
        })
    }

    /// The plan of a recovering job with the ranks of lost workers on others, if `may` finds nothing missing.
    fn moved(
        &self,
        id: &JobId,
        slots: &[Slot],
        wanted: impl Fn(&DurableJob) -> bool,
        may: impl Fn(&Plan, &BTreeSet<RankId>) -> bool,
    ) -> Option<Plan> {
        let recovers = |job: &&DurableJob| job.state == JobState::Recovering && wanted(job);
        let job = self.live.job(id).filter(recovers)?;
        let mut plan = job.plan.clone()?;
        let (displaced, left) = displaced(&plan, slots);
        // A worker that came back with another memory has room for its ranks, and not their state.
        if !may(&plan, &(&displaced | &self.forgotten_by(job, id, &plan))) {
            return None;
        }
        move_to(&mut plan, &displaced, left)?;
        plan.epoch = plan.epoch.next();
        Some(plan)
    }

    /// What a recovering job waits for before it is placed: its old trainers to wait or be gone (or their worker
    /// lost), and for a while as many slots as it had.
    pub(crate) fn regroups(&self, id: &JobId, free: &[Slot]) -> Option<&'static str> {
        if self.state_of(id) != Some(JobState::Recovering) {
            return None;
        }
        if self.registry.is_busy(id) {
            return Some("waits for its trainers to halt or stop");
        }
        let by = *self.regroups.get(id)?;
        let job = self.live.job(id)?;
        let had = job.plan.as_ref()?.world() as usize;
        // What lies in the memory of a worker that was killed is there when it is started again, and newer than what
        // groups exchanged. A plan that committed nothing may not have reached its guards either: then the workers
        // themselves are better waited for. So they are while one may still return: what the others have may turn out
        // not to be whole, and who has moved away doesn't come back to it.
        let at_home = job.plan.as_ref().is_some_and(|plan| plan.workers == job.homes);
        let begun = at_home && job.former_members == job.home_members;
        let may_return = self.may_return(job, id);
        let fits = || {
            let moved = || begun && !may_return && self.stand_in(id, free, GoBack::No).is_some();
            self.same_again(id, free).is_some() || moved()
        };
        let lacks_state = (job.lives_in_memory() || job.makes_up()) && !fits();
        let lacks = lacks_state || free.len() < had;
        // Beyond that time only as long as a worker whose connection broke isn't lost: it may have all that is missing.
        let waits = (lacks && self.mono() < by) || (lacks_state && may_return);
        waits.then_some("waits for its workers to come back")
    }

    /// The workers that have the state didn't come back in time: the job fails if guards don't have it either, and
    /// waits for room if they do, or if it is there and others hold the slots. Whether the next job of the queue may
    /// be looked at.
    pub(crate) fn wait_for_memory(&mut self, id: &JobId, slots: &[Slot]) -> bool {
        let Some(job) = self.live.job(id) else {
            return true;
        };
        let Some(plan) = &job.plan else { return true };
        let absent = self.absent(job, id, plan);
        let Some(rank) = self.beyond_help(id, plan, &absent) else {
            let (displaced, left) = displaced(plan, slots);
            let why = format!(
                "needs {} more free trainer slots, there are {}",
                displaced.len(),
                left.len()
            );
            self.queue_notes.insert(id.clone(), why);
            return false;
        };
        let failure = Failure {
            class: FailureClass::WorkerLost,
            rank: Some(rank),
            worker: plan.worker_of(rank).cloned(),
            message: format!(
                "its worker did not come back; {}",
                crate::nowhere::memory_lost(job, plan, &self.unguarded(id, plan, &absent, GoBack::Yes))
            ),
        };
        self.end(id, JobState::Failed, Some(failure));
        true
    }
}
