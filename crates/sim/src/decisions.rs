//! What the coordinator may decide, by what it can know at that moment: checked when it decides, before the record is
//! written.
//!
//! In: the records it gives out. Out: violations of SM-9 (of a hang), and notes for the rules that are checked once a
//! record is durable.

use rekindle_coordinator_core::{Change, Effect};
use rekindle_types::{Epoch, Failure, FailureClass, JobId, JobState};

use crate::world::World;

impl World {
    /// The coordinator has decided, and what follows from it isn't done yet.
    pub(crate) fn check_decisions(&mut self, effects: &[Effect]) {
        for effect in effects {
            let Effect::Persist { record, .. } = effect else {
                continue;
            };
            match &record.change {
                Change::Planned { plan, .. } => {
                    let machine = self.coordinator.as_ref();
                    let workers = machine.map(|machine| machine.workers()).unwrap_or_default();
                    let names = workers.into_iter().map(|view| view.worker).collect();
                    let key = (plan.job.clone(), plan.epoch);
                    self.ledger.known.insert(key, names);
                }
                Change::FailureNoted {
                    job, epoch, failure, ..
                } if failure.class == FailureClass::Hang => self.check_hang(job, *epoch, failure),
                Change::Ended {
                    job,
                    state: JobState::Failed,
                    ..
                } => {
                    let whole = self.whole_step(job);
                    self.ledger.whole.insert(job.clone(), whole);
                }
                _ => {}
            }
        }
    }

    /// SM-9 of a hang: it is told of the rank that stands still. Where none does it is told of none, and only of a
    /// job whose ranks are all through: what is overdue then is the last checkpoint, of which a lost worker may have
    /// been the only one to know.
    fn check_hang(&mut self, job: &JobId, epoch: Epoch, failure: &Failure) {
        let gang = self.gangs.get(&(job.clone(), epoch));
        let stuck = gang.and_then(|gang| gang.hung);
        if failure.rank != stuck || (stuck.is_none() && !self.is_through(job)) {
            let detail = format!("{job} is said to hang: {failure:?}, but {stuck:?} stands still");
            self.violate("SM-9", detail);
        }
    }
}
