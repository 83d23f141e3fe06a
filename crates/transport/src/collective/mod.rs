//! Operations of a group of ranks, each in two phases: `start` queues the sends and returns, `finish`
//! receives and combines. Between the two the caller computes; any number of operations may be between them
//! at once, each under a tag of its own.
//!
//! In: an ordered [`Group`] (the same order on every member), a [`Tag`](crate::Tag), data. Out: the combined data.
//!
//! Invariants
//! - TR-8 Every operation sends at most one frame per ordered pair of members, under exactly the tag it was
//!   given. So operations with different tags never meet, and operations of one tag meet in the order in
//!   which each member started them.
//! - TR-9 Sums are taken in the group's order, whatever order frames arrive in; integer sums are checked and
//!   never wrap (digests, which are defined modulo 2^128, wrap on purpose).
//!
//! Deliberately absent: rings and trees. Lanes are few; a direct exchange has the fewest steps, and each byte
//! travels once per receiver anyway.

mod all_gather;
mod all_reduce;
mod barrier;
mod broadcast;
mod element;
mod reduce_scatter;

use std::ops::Range;

use rekindle_types::RankId;

use crate::TransportError;

pub use all_gather::AllGather;
pub use all_reduce::{AllReduce, all_reduce};
pub use barrier::barrier;
pub use broadcast::broadcast;
pub use element::{Element, Summand};
pub use reduce_scatter::ReduceScatter;

/// An ordered list of ranks, and this rank's place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    members: Vec<RankId>,
    me: usize,
}

impl Group {
    /// The group of `members` as `me` sees it. Every member must give the same order.
    ///
    /// # Errors
    /// [`TransportError::Group`] when `me` isn't in it, or somebody is in it twice.
    pub fn new(members: Vec<RankId>, me: RankId) -> Result<Self, TransportError> {
        let unique: std::collections::BTreeSet<_> = members.iter().collect();
        if unique.len() != members.len() {
            return Err(TransportError::Group {
                why: format!("{members:?} names a rank twice"),
            });
        }
        let Some(place) = members.iter().position(|&rank| rank == me) else {
            return Err(TransportError::Group {
                why: format!("{me} isn't in {members:?}"),
            });
        };
        Ok(Self { members, me: place })
    }

    /// Everybody, in order.
    #[must_use]
    pub fn members(&self) -> &[RankId] {
        &self.members
    }

    /// This rank's place, from 0.
    #[must_use]
    pub fn place(&self) -> usize {
        self.me
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> RankId {
        self.members[self.me]
    }

    /// The number of members; at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a group is never empty")]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Everybody else with their places, starting behind this rank, so that not all members send to the same
    /// one first.
    pub fn others(&self) -> impl Iterator<Item = (usize, RankId)> + '_ {
        let n = self.members.len();
        (1..n)
            .map(move |k| (self.me + k) % n)
            .map(|place| (place, self.members[place]))
    }

    /// Checks that there is one part per member, in order, inside `len` elements, without overlap.
    fn check_parts(&self, parts: &[Range<usize>], len: usize) -> Result<(), TransportError> {
        let fail = |why| Err(TransportError::Group { why });
        if parts.len() != self.len() {
            return fail(format!("{} parts for {} members", parts.len(), self.len()));
        }
        let mut end = 0;
        for part in parts {
            if part.start < end || part.end < part.start || part.end > len {
                return fail(format!(
                    "part {part:?} overlaps the one before or leaves 0..{len}"
                ));
            }
            end = part.end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(of: &[u32]) -> Vec<RankId> {
        of.iter().copied().map(RankId).collect()
    }

    #[test]
    fn a_group_knows_its_members_once() {
        assert!(Group::new(ranks(&[1, 2, 1]), RankId(1)).is_err());
        assert!(Group::new(ranks(&[1, 2]), RankId(3)).is_err());
        let group = Group::new(ranks(&[5, 3, 9]), RankId(3)).unwrap();
        assert_eq!(
            group.others().collect::<Vec<_>>(),
            [(2, RankId(9)), (0, RankId(5))]
        );
    }

    #[test]
    fn parts_are_checked() {
        let group = Group::new(ranks(&[0, 1]), RankId(0)).unwrap();
        assert!(group.check_parts(&[0..4, 4..4], 4).is_ok());
        for bad in [&[0..3, 2..4][..], &[0..2, 2..5], &[0..1, 1..2, 2..4]] {
            assert!(group.check_parts(bad, 4).is_err(), "{bad:?}");
        }
    }
}
