//! What became of this rank's checkpoints, given out in the order of steps.
//!
//! Threads that write side by side may end a checkpoint before an older one. Whoever hears of them takes a newer one
//! for the end of all older ones, so it hears of that one when they have ended, too; each ends in bounded time.

use std::collections::{BTreeMap, BTreeSet};

use rekindle_checkpoint::writer::Outcome;

/// Checkpoints under way, and the outcomes of those that older ones still keep from being told.
#[derive(Debug, Default)]
pub struct Outcomes {
    open: BTreeSet<u64>,
    ended: BTreeMap<u64, Outcome>,
}

impl Outcomes {
    /// The state after this step is being saved from now on.
    pub fn began(&mut self, step: u64) {
        self.open.insert(step);
    }

    /// A checkpoint ended.
    pub fn ended(&mut self, outcome: Outcome) {
        self.ended.insert(outcome.step(), outcome);
    }

    /// The next outcome to tell; none while the oldest checkpoint is under way.
    pub fn next(&mut self) -> Option<Outcome> {
        let step = *self.open.first()?;
        let outcome = self.ended.remove(&step)?;
        self.open.remove(&step);
        Some(outcome)
    }

    /// Whether any checkpoint's end wasn't told yet.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether this one's wasn't.
    #[must_use]
    pub fn has(&self, step: u64) -> bool {
        self.open.contains(&step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(step: u64) -> Outcome {
        Outcome::Failed {
            step,
            error: String::new(),
            attempts: 1,
        }
    }

    #[test]
    fn a_newer_checkpoint_is_told_of_after_the_older_ones() {
        let mut outcomes = Outcomes::default();
        (1..=4).for_each(|step| outcomes.began(step));
        let told = |outcomes: &mut Outcomes| -> Vec<u64> {
            std::iter::from_fn(|| outcomes.next()).map(|o| o.step()).collect()
        };
        outcomes.ended(failed(3));
        outcomes.ended(failed(2));
        assert!(told(&mut outcomes).is_empty(), "step 1 is under way");
        outcomes.ended(failed(1));
        assert_eq!(told(&mut outcomes), [1, 2, 3]);
        assert!(outcomes.any() && outcomes.has(4) && !outcomes.has(3));
        outcomes.ended(failed(4));
        assert_eq!(told(&mut outcomes), [4]);
        assert!(!outcomes.any());
    }
}
