//! Whether a job's state is whole in the memory of its workers, seen from outside: then it may not be given up (SM-9).
//!
//! A step is whole when every rank's state of it is there: the rank's own, or what a guard has of it, which where
//! that is moments alone takes the weights of another lane as of the same step. It has to be where the job ran when
//! it last committed a step, or runs now: what older epochs left elsewhere nobody looks for. And a worker counts only
//! if what it has is to be found: it was never lost; or it came back since, and the job has committed a step after
//! that, of which it has all that is its to have. (One that was lost may have been waited for in vain.)
//!
//! What a trainer that was killed in an update spoiled is not whole, so such a job may fail though its ranks have
//! guards, if those are lost next.

use std::collections::BTreeSet;

use rekindle_plan::{moments_alone, twins};
use rekindle_types::{JobId, JobSpec, Plan, RankId};

use crate::worker_side::name_of;
use crate::world::World;

/// What there is to be found of a job.
struct Left<'a> {
    world: &'a World,
    job: &'a JobId,
    spec: &'a JobSpec,
    plan: &'a Plan,
    /// The plan under which a step was last committed.
    before: &'a Plan,
    /// Workers that count.
    hosts: Vec<usize>,
}

impl World {
    /// The newest step of a job that is whole. None, too, where none was ever committed: then it begins again.
    pub(crate) fn whole_step(&self, job: &JobId) -> Option<u64> {
        let ledger = &self.ledger;
        let (_, plan) = ledger.plans.iter().rfind(|((of, _), _)| of == job)?;
        let (_, epoch) = ledger.committed.get(job)?;
        let mut left = Left {
            world: self,
            job,
            spec: ledger.specs.get(job)?,
            plan,
            before: ledger.plans.get(&(job.clone(), *epoch))?,
            hosts: Vec::new(),
        };
        let all = (0..self.hosts.len()).filter(|host| self.is_to_be_found(*host, job));
        left.hosts = all
            .filter(|host| plan.ranks().any(|rank| left.ran(*host, rank)))
            .collect();
        left.whole()
    }

    /// Whether what a worker has of a job in memory is to be found.
    fn is_to_be_found(&self, host: usize, job: &JobId) -> bool {
        let name = name_of(host);
        let Some(lost) = self.ledger_lost.get(&name) else {
            return true;
        };
        let back = self.ledger.registered.get(&name).filter(|at| *at > lost);
        let committed = self.ledger.committed.get(job).map(|(at, _)| at);
        back.is_some_and(|back| committed > Some(back))
    }
}

impl Left<'_> {
    fn ran(&self, host: usize, rank: RankId) -> bool {
        let (name, plans) = (name_of(host), [self.before, self.plan]);
        plans.iter().any(|plan| plan.worker_of(rank) == Some(&name))
    }

    fn own(&self, rank: RankId, step: u64) -> bool {
        let has = |host: usize| self.world.hosts[host].memory.has(self.job, rank, step);
        self.hosts.iter().any(|host| self.ran(*host, rank) && has(*host))
    }

    fn guarded(&self, rank: RankId, step: u64) -> bool {
        let kept = |host: &usize| self.world.hosts[*host].memory.guards(self.job, rank, step);
        let weights = || {
            let alone = moments_alone(self.spec, self.plan);
            !alone || twins(self.plan, rank).any(|twin| self.own(twin, step))
        };
        // Guards of a job that swaps keep but the embedding or the head.
        !self.spec.recovery.swaps() && self.hosts.iter().any(kept) && weights()
    }

    fn whole(&self) -> Option<u64> {
        let there = |rank: RankId, step: u64| self.own(rank, step) || self.guarded(rank, step);
        let hosts = self.hosts.iter();
        let all = hosts.flat_map(|host| self.world.hosts[*host].memory.steps(self.job));
        let steps: BTreeSet<u64> = all.collect();
        let whole = |step: &u64| self.plan.ranks().all(|rank| there(rank, *step));
        steps.into_iter().rev().find(whole)
    }
}
