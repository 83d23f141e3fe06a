//! Which slots a job may have: free ones and its own, without those that are kept for jobs whose state lies there.
//!
//! Deliberately absent: which of them its ranks get ([`crate::recover`], `rekindle_plan::place`).

use rekindle_plan::Slot;
use rekindle_types::spec::Auto;
use rekindle_types::{JobId, Plan, RankId, WorkerId};

use crate::durable_job::DurableJob;
use crate::machine::Coordinator;
use crate::recover::GoBack;

impl Coordinator {
    /// Free slots and those of its own trainers that wait, without those that other jobs need back because their
    /// state lies there; and without those on devices that failed, if the job can do without them.
    pub(crate) fn slots_for(&self, id: &JobId) -> Vec<Slot> {
        let mut free = self.registry.free_slots();
        free.extend(self.waiting_slots(id));
        for worker in self.reserved_against(id) {
            if let Some(at) = free.iter().position(|slot| slot.worker == worker) {
                free.remove(at);
            }
        }
        let sound = self.registry.sound(&free);
        match self.can_do_with(id, &sound) {
            true => sound,
            false => free,
        }
    }

    /// The workers that other jobs need back, one entry a rank. Where this one needs the same worker back, the job
    /// counts that was submitted first: else each would keep it from the other.
    fn reserved_against(&self, id: &JobId) -> Vec<WorkerId> {
        let (mine, number) = (self.needs_back(id), self.live.job(id).map(|job| job.number));
        let others = self.live.jobs().iter().filter(|(job, _)| *job != id);
        let of = |(other, job): (&JobId, &DurableJob)| {
            let yields = number.is_some_and(|number| number < job.number);
            let mut workers = self.needs_back(other);
            workers.retain(|worker| !(yields && mine.contains(worker)));
            workers
        };
        others.flat_map(of).collect()
    }

    /// Whether there are as many slots as the job had or asks for, and nothing that only workers' memory has would be
    /// left behind.
    fn can_do_with(&self, id: &JobId, slots: &[Slot]) -> bool {
        let Some(job) = self.live.job(id) else {
            return false;
        };
        let wanted = |count: Auto| match count {
            Auto::Auto => 1,
            Auto::Count(count) => count,
        };
        let parallelism = &job.spec.parallelism;
        let asked = wanted(parallelism.pipeline).saturating_mul(wanted(parallelism.data));
        let needs = job.plan.as_ref().map_or(asked, Plan::world);
        let leaves_nothing = || {
            !job.lives_in_memory()
                || self.same_again(id, slots).is_some()
                || self.stand_in(id, slots, GoBack::Yes).is_some()
        };
        slots.len() >= needs as usize && leaves_nothing()
    }

    /// The workers of ranks that are gone while their state may be in memory there, one entry a rank.
    fn needs_back(&self, id: &JobId) -> Vec<WorkerId> {
        let lives = |job: &&DurableJob| job.lives_in_memory() && !job.state.is_terminal();
        let Some(plan) = self.live.job(id).filter(lives).and_then(|job| job.plan.as_ref()) else {
            return Vec::new();
        };
        let gone = |(rank, worker): &(RankId, &WorkerId)| {
            let entry = self.registry.workers.get(*worker);
            entry.is_some_and(|entry| !entry.occupants.contains_key(&(id.clone(), *rank)))
        };
        plan.ranks()
            .zip(&plan.workers)
            .filter(gone)
            .map(|(_, worker)| worker.clone())
            .collect()
    }
}
