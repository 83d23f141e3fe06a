//! What lies in the machines' memory: states that trainers keep, their own and those of ranks they guard.
//!
//! - SM-13 A trainer goes on from memory only from a step that its worker has, or (of what a guard kept of it) the
//!   worker of the rank that it is told to take it from.

use std::collections::{BTreeMap, BTreeSet};

use rekindle_plan::{end_guards_of, guards_of, moments_alone, twins};
use rekindle_types::{Epoch, InMemory, JobId, RankId, Refill, Share, StartTrainer};
use rekindle_worker_core::TrainerKey;

use crate::worker_side::name_of;
use crate::world::World;

/// The memory of a machine: steps, newest first.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    own: BTreeMap<(JobId, RankId), Vec<u64>>,
    /// By the guarded rank and the epoch in which it was guarded.
    guarded: BTreeMap<(JobId, RankId), BTreeMap<Epoch, Vec<u64>>>,
}

/// A step is whole; the one before it may stay.
fn push(steps: &mut Vec<u64>, step: u64, and_before: bool) {
    steps.retain(|held| and_before && held + 1 == step);
    steps.insert(0, step);
}

/// The guards of all ranks, or of the ends of the pipeline.
fn all_guards(start: &StartTrainer) -> BTreeMap<RankId, Vec<RankId>> {
    let mut guards = guards_of(&start.spec, &start.plan);
    guards.extend(end_guards_of(&start.spec, &start.plan));
    guards
}

impl Memory {
    pub(crate) fn jobs(&self) -> BTreeSet<JobId> {
        let all = self.own.keys().chain(self.guarded.keys());
        all.map(|(job, _)| job.clone()).collect()
    }

    pub(crate) fn forget(&mut self, job: &JobId) {
        self.own.retain(|(of, _), _| of != job);
        self.guarded.retain(|(of, _), _| of != job);
    }

    /// What a trainer of this epoch finds of a rank that was guarded here: what the newest epoch left.
    fn left(&self, job: &JobId, rank: RankId, epoch: Epoch) -> Option<&Vec<u64>> {
        let epochs = self.guarded.get(&(job.clone(), rank))?;
        epochs.range(..epoch).next_back().map(|(_, steps)| steps)
    }

    /// Whether a rank's own state of a step is here.
    pub(crate) fn has(&self, job: &JobId, rank: RankId, step: u64) -> bool {
        let steps = self.own.get(&(job.clone(), rank));
        steps.is_some_and(|steps| steps.contains(&step))
    }

    /// Whether a trainer of a later epoch finds that a guard left a rank's state of a step here.
    pub(crate) fn guards(&self, job: &JobId, rank: RankId, step: u64) -> bool {
        let steps = self.left(job, rank, Epoch(u64::MAX));
        steps.is_some_and(|steps| steps.contains(&step))
    }

    /// The steps of which anything is here.
    pub(crate) fn steps(&self, job: &JobId) -> Vec<u64> {
        let own = self.own.iter().map(|((of, _), steps)| (of, steps));
        let guarded = self.guarded.iter();
        let guarded = guarded.flat_map(|((of, _), epochs)| epochs.values().map(move |steps| (of, steps)));
        let all = own.chain(guarded).filter(|(of, _)| *of == job);
        all.flat_map(|(_, steps)| steps.iter().copied()).collect()
    }

    /// What a trainer finds.
    pub(crate) fn offers(&self, key: &TrainerKey) -> InMemory {
        let own = self.own.get(&(key.job.clone(), key.rank));
        let ranks = self.guarded.keys().filter(|(job, _)| *job == key.job);
        let guarded = ranks.filter_map(|(_, rank)| {
            let steps = self.left(&key.job, *rank, key.epoch)?;
            Some((*rank, steps.clone()))
        });
        InMemory {
            own: own.cloned().unwrap_or_default(),
            guarded: guarded.collect(),
            ..InMemory::default()
        }
    }

    /// The newest step isn't whole after all.
    pub(crate) fn tear(&mut self, key: &TrainerKey) {
        let kept = self.own.get_mut(&(key.job.clone(), key.rank));
        if let Some(kept) = kept.filter(|kept| kept.len() > 1) {
            kept.remove(0);
        }
    }

    fn tear_shadow(&mut self, job: &JobId, rank: RankId, epoch: Epoch) {
        let epochs = self.guarded.get_mut(&(job.clone(), rank));
        let kept = epochs.and_then(|epochs| epochs.get_mut(&epoch));
        if let Some(kept) = kept.filter(|kept| kept.len() > 1) {
            kept.remove(0);
        }
    }
}

impl World {
    /// A trainer has the state of `step` in memory now, and that of the step before if it committed that one, too.
    pub(crate) fn keeps(&mut self, worker: usize, key: &TrainerKey, step: u64, and_before: bool) {
        let own = &mut self.hosts[worker].memory.own;
        let steps = own.entry((key.job.clone(), key.rank)).or_default();
        push(steps, step, and_before);
        for guard in self.guard_hosts(worker, key) {
            let guarded = &mut self.hosts[guard].memory.guarded;
            let epochs = guarded.entry((key.job.clone(), key.rank)).or_default();
            push(epochs.entry(key.epoch).or_default(), step, and_before);
        }
    }

    fn host_of(&self, worker: usize, key: &TrainerKey, rank: RankId) -> Option<usize> {
        let plan = &self.hosts[worker].processes.get(key)?.start.plan;
        let name = plan.worker_of(rank)?;
        (0..self.hosts.len()).find(|host| name_of(*host) == *name)
    }

    /// The machines of a trainer's guards.
    fn guard_hosts(&self, worker: usize, key: &TrainerKey) -> Vec<usize> {
        let Some(process) = self.hosts[worker].processes.get(key) else {
            return Vec::new();
        };
        let guards = all_guards(&process.start).remove(&key.rank);
        let hosts = guards.into_iter().flatten();
        hosts
            .filter_map(|guard| self.host_of(worker, key, guard))
            .collect()
    }

    /// A trainer dies in an update: the newest state of its own, or of one that it guards, isn't whole.
    pub(crate) fn tear(&mut self, worker: usize, key: &TrainerKey) {
        self.hosts[worker].memory.tear(key);
        let Some(process) = self.hosts[worker].processes.get(key) else {
            return;
        };
        let all = all_guards(&process.start);
        for (ward, _) in all.into_iter().filter(|(_, guards)| guards.contains(&key.rank)) {
            if self.rng.one_in(2) {
                self.hosts[worker].memory.tear_shadow(&key.job, ward, key.epoch);
            }
        }
    }

    /// Told to connect: a trainer that goes on from its own worker's memory loads that at once.
    pub(crate) fn loads(&mut self, worker: usize, key: &TrainerKey, from: u64, local: Option<u64>) {
        let kept = self.hosts[worker].memory.offers(key).own;
        if local.is_some_and(|step| !kept.contains(&step)) {
            let detail = format!("{key} is to go on from {local:?}, and w{worker} has {kept:?}");
            self.violate("SM-13", detail);
        }
        let own = &mut self.hosts[worker].memory.own;
        push(own.entry((key.job.clone(), key.rank)).or_default(), from, false);
    }

    /// Ranks whose state isn't there yet get it, and their guards: all, or those that are quick.
    pub(crate) fn fill_some(&mut self, job: &JobId, epoch: Epoch, quick: bool) {
        for (worker, key) in self.members(job, epoch) {
            let late = quick && self.rng.one_in(2);
            let Some(gang) = self.gangs.get_mut(&(job.clone(), epoch)) else {
                return;
            };
            if late || !gang.filled.insert(key.rank) {
                continue;
            }
            let (from, refill) = (gang.from, gang.refills.get(&key.rank).cloned());
            self.fills(worker, &key, from, refill.as_ref());
        }
    }

    /// The trainer has met its peers: it gets what its guard kept or is made of its neighbours' states, if it has
    /// nothing itself, and gives its guard of this epoch all it has.
    fn fills(&mut self, worker: usize, key: &TrainerKey, from: u64, refill: Option<&Refill>) {
        for sender in refill
            .filter(|refill| !refill.is_exact())
            .map(Refill::senders)
            .unwrap_or_default()
        {
            self.is_read(worker, key, from, sender);
        }
        let guard = match refill {
            Some(Refill::Guard(guard)) => Some(*guard),
            Some(Refill::Mean(shares)) => self.has_its_end(worker, key, shares),
            _ => None,
        };
        if let Some(guard) = guard.and_then(|rank| self.host_of(worker, key, rank)) {
            let left = self.hosts[guard].memory.left(&key.job, key.rank, key.epoch);
            if left.is_none_or(|steps| !steps.contains(&from)) {
                let detail = format!("{key} is to get step {from} from w{guard}, which has {left:?}");
                self.violate("SM-13", detail);
            }
            self.has_weights(worker, key, from);
        }
        self.keeps(worker, key, from, false);
    }

    /// The rank that gives an end of the pipeline its embedding or head, where that is copied from the stage beside it.
    fn has_its_end(&self, worker: usize, key: &TrainerKey, shares: &[Share]) -> Option<RankId> {
        let start = &self.hosts[worker].processes.get(key)?.start;
        end_guards_of(&start.spec, &start.plan).get(&key.rank)?;
        let stage = |rank: RankId| start.plan.rank(rank).stage;
        let mut ranks = shares.iter().map(|share| share.rank);
        ranks.find(|rank| stage(*rank) != stage(key.rank))
    }

    /// Where guards keep moments alone another lane has the weights.
    fn has_weights(&mut self, worker: usize, key: &TrainerKey, from: u64) {
        let Some(process) = self.hosts[worker].processes.get(key) else {
            return;
        };
        let (spec, plan) = (&process.start.spec, process.start.plan.clone());
        if !moments_alone(spec, &plan) {
            return;
        }
        let has = |twin: RankId| {
            let host = self.host_of(worker, key, twin)?;
            let its = TrainerKey {
                rank: twin,
                ..key.clone()
            };
            Some(self.hosts[host].memory.offers(&its).own.contains(&from))
        };
        if !twins(&plan, key.rank).any(|twin| has(twin).unwrap_or(false)) {
            let detail = format!("{key} is to get the weights of step {from} from a lane, and none has them");
            self.violate("SM-13", detail);
        }
    }

    /// A rank that another one is made of has the state itself, or from its guard.
    fn is_read(&mut self, worker: usize, key: &TrainerKey, from: u64, sender: RankId) {
        let Some(host) = self.host_of(worker, key, sender) else {
            return;
        };
        let its = TrainerKey {
            rank: sender,
            ..key.clone()
        };
        let offers = self.hosts[host].memory.offers(&its).own;
        let gang = self.gangs.get(&(key.job.clone(), key.epoch));
        let refilled = gang
            .and_then(|gang| gang.refills.get(&sender))
            .is_some_and(Refill::is_exact);
        if !refilled && !offers.contains(&from) {
            let detail =
                format!("{key} is made of {sender}'s state of step {from} on w{host}, which has {offers:?}");
            self.violate("SM-13", detail);
        }
    }

    /// After the first commit of an epoch nobody needs what older ones left.
    pub(crate) fn forgets_older_shadows(&mut self, members: &[(usize, TrainerKey)]) {
        for (worker, key) in members {
            for ((job, _), epochs) in &mut self.hosts[*worker].memory.guarded {
                if *job == key.job {
                    epochs.retain(|epoch, _| *epoch >= key.epoch);
                }
            }
        }
    }
}
