//! Whose memory still has what a job's trainers left there, and who may come back with it.
//!
//! In: a job, its plan, the workers as they are known. Out: ranks whose state is gone from where they ran, and
//! whether waiting is worth while. Deliberately absent: what others have of it ([`crate::recover`],
//! [`crate::parity`]).

use std::collections::BTreeSet;

use rekindle_types::{JobId, Plan, RankId, WorkerId};

use crate::durable_job::DurableJob;
use crate::machine::Coordinator;

impl Coordinator {
    /// Whether a worker may still have in memory what trainers of the job's plan kept there: it is the same process,
    /// or its successor on the same machine, which found something of the job.
    pub(crate) fn remembers(&self, job: &DurableJob, id: &JobId, worker: &WorkerId) -> bool {
        let entry = self.registry.workers.get(worker);
        entry.and_then(|entry| entry.info.as_ref()).is_some_and(|info| {
            job.former_members.get(worker) == Some(&info.incarnation) || info.kept.contains(id)
        })
    }

    /// The ranks whose worker came back with another memory than the one in which their state was.
    pub(crate) fn forgotten_by(&self, job: &DurableJob, id: &JobId, plan: &Plan) -> BTreeSet<RankId> {
        let ranks = plan.ranks().zip(&plan.workers);
        let forgot = |(_, worker): &(RankId, &WorkerId)| !self.remembers(job, id, worker);
        ranks.filter(forgot).map(|(rank, _)| rank).collect()
    }

    /// The ranks whose worker isn't there with their state and, once others have left it, room for all its ranks.
    pub(crate) fn absent(&self, job: &DurableJob, id: &JobId, plan: &Plan) -> BTreeSet<RankId> {
        let here = |worker: &WorkerId| {
            let entry = self.registry.workers.get(worker);
            let serves = entry.filter(|entry| entry.session.is_some() && !entry.draining);
            let slots = serves
                .and_then(|entry| entry.info.as_ref())
                .map_or(0, |info| info.slots);
            slots as usize >= plan.ranks_of(worker).count() && self.remembers(job, id, worker)
        };
        let ranks = plan.ranks().zip(&plan.workers);
        ranks
            .filter(|(_, worker)| !here(worker))
            .map(|(rank, _)| rank)
            .collect()
    }

    /// Whether a worker of the plan that may have state of the job lost its connection and isn't given up yet. That
    /// ends with its return or its loss.
    pub(crate) fn may_return(&self, job: &DurableJob, id: &JobId) -> bool {
        let away = |worker: &WorkerId| {
            let entry = self.registry.workers.get(worker);
            let away = entry.filter(|entry| entry.session.is_none() && !entry.draining);
            away.is_some_and(|entry| entry.info.is_none() || self.remembers(job, id, worker))
        };
        job.plan
            .as_ref()
            .is_some_and(|plan| plan.workers.iter().any(away))
    }
}
