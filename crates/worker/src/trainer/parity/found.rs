//! A rank's set that a dead trainer left, whole: compared with its seal when it was found.

use std::rc::Rc;

use rekindle_types::ParitySet;
use rekindle_vault::parity::{SEAL, Seal};

use crate::trainer::left::{Left, Pieces};

/// A state as of a step, and its rank's parities.
pub struct Set {
    left: Rc<Left>,
    seal: Seal,
}

impl Set {
    /// The sets in a file, newest first, without those that were changed.
    #[must_use]
    pub fn all(left: Left) -> Vec<Self> {
        let left = Rc::new(left);
        let steps = left.steps().into_iter();
        steps.filter_map(|step| Self::whole(&left, step)).collect()
    }

    fn whole(left: &Rc<Left>, step: u64) -> Option<Self> {
        let seal = Seal::read(left.snapshot().more(step)?).and_then(|seal| {
            let left = Rc::clone(left);
            let set = Self { left, seal };
            set.seal.check(set.state(), set.parities()).map(|()| set)
        });
        let unusable = |why: &_| tracing::warn!(step, %why, "a set of parities isn't used");
        seal.inspect_err(unusable).ok()
    }

    /// What is written about it.
    #[must_use]
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// What the coordinator is told of it.
    #[must_use]
    pub fn told(&self) -> ParitySet {
        ParitySet {
            step: self.seal.step,
            epoch: self.seal.epoch,
            members: self.seal.members.clone(),
        }
    }

    /// The state: pieces one after the other.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        let snapshot = self.left.snapshot();
        match snapshot.entries(self.seal.step) {
            Some([first, .., last]) => snapshot.at(&(first.bytes.start..last.bytes.end)),
            _ => &[],
        }
    }

    /// The parities, one after the other.
    #[must_use]
    pub fn parities(&self) -> &[u8] {
        let more = self.left.snapshot().more(self.seal.step);
        more.and_then(|more| more.get(SEAL..)).unwrap_or_default()
    }

    /// The state, by its pieces.
    #[must_use]
    pub fn pieces(&self) -> Pieces<'_> {
        self.left.pieces(self.seal.step)
    }
}
