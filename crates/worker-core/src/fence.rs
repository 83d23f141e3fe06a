//! Which commands come too late: the newest epoch seen per job, and which of its trainers have ended (WC-3).

use std::collections::{BTreeMap, BTreeSet};

use rekindle_types::{Epoch, JobId, RankId};

use crate::TrainerKey;

/// Jobs remembered. A forgotten one could be started again by a late command; the coordinator would have it stopped.
const MOST_JOBS: usize = 1_024;

#[derive(Debug, Clone, Default)]
struct Seen {
    epoch: Epoch,
    stopped: bool,
    ended: BTreeSet<RankId>,
    touched: u64,
}

/// What was seen of each job.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fences {
    jobs: BTreeMap<JobId, Seen>,
    counter: u64,
}

impl Fences {
    /// Takes note of an epoch; false when a newer one was seen.
    pub(crate) fn pass(&mut self, job: &JobId, epoch: Epoch) -> bool {
        let seen = self.touch(job);
        if epoch > seen.epoch {
            let touched = seen.touched;
            *seen = Seen {
                epoch,
                touched,
                ..Seen::default()
            };
        }
        epoch == seen.epoch
    }

    /// Whether this trainer may (still) be started.
    pub(crate) fn may_start(&mut self, key: &TrainerKey) -> bool {
        self.pass(&key.job, key.epoch) && {
            let seen = self.touch(&key.job);
            !seen.stopped && !seen.ended.contains(&key.rank)
        }
    }

    /// Nothing up to this epoch may be started any more.
    pub(crate) fn stop(&mut self, job: &JobId, epoch: Epoch) {
        if self.pass(job, epoch) {
            self.touch(job).stopped = true;
        }
    }

    /// This trainer has ended.
    pub(crate) fn end(&mut self, key: &TrainerKey) {
        let seen = self.touch(&key.job);
        if seen.epoch == key.epoch {
            seen.ended.insert(key.rank);
        }
    }

    fn touch(&mut self, job: &JobId) -> &mut Seen {
        self.counter += 1;
        if !self.jobs.contains_key(job) && self.jobs.len() >= MOST_JOBS {
            let oldest = self.jobs.iter().min_by_key(|(_, seen)| seen.touched);
            if let Some(oldest) = oldest.map(|(job, _)| job.clone()) {
                self.jobs.remove(&oldest);
            }
        }
        let seen = self.jobs.entry(job.clone()).or_default();
        seen.touched = self.counter;
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::key;

    #[test]
    fn older_epochs_and_ended_trainers_dont_start() {
        let mut fences = Fences::default();
        assert!(fences.may_start(&key(2, 0)));
        assert!(!fences.may_start(&key(1, 0)), "an older epoch");
        fences.end(&key(2, 0));
        assert!(!fences.may_start(&key(2, 0)), "it ended");
        assert!(fences.may_start(&key(2, 1)));
        fences.stop(&key(2, 0).job, Epoch(2));
        assert!(!fences.may_start(&key(2, 1)), "the epoch was stopped");
        assert!(fences.may_start(&key(3, 1)), "a newer epoch is a new start");
        fences.stop(&key(2, 0).job, Epoch(2));
        assert!(
            fences.may_start(&key(3, 1)),
            "a late stop of an older epoch changes nothing"
        );
    }
}
