//! Which of the plan's ranks a communicator has, and NCCL's numbers for them. Pure.
//!
//! NCCL numbers the ranks of a communicator from 0 on without holes: those that stay move up when one leaves, and
//! whoever joins comes last. So a plan's rank is never NCCL's; this list is what lies between.

use std::collections::BTreeSet;

use rekindle_types::RankId;

use super::Fault;

/// The ranks of a communicator in NCCL's order, none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members(Vec<RankId>);

fn refused<T>(why: String) -> Result<T, Fault> {
    Err(Fault::Ranks { why })
}

impl Members {
    /// These ranks, in this order.
    ///
    /// # Errors
    /// [`Fault::Ranks`] when there is none, or one twice.
    pub fn new(ranks: Vec<RankId>) -> Result<Self, Fault> {
        let distinct: BTreeSet<_> = ranks.iter().collect();
        if ranks.is_empty() || distinct.len() != ranks.len() {
            return refused(format!("{ranks:?} are no members: there is none, or one twice"));
        }
        Ok(Self(ranks))
    }

    /// In NCCL's order.
    #[must_use]
    pub fn ranks(&self) -> &[RankId] {
        &self.0
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// NCCL's number of a rank.
    ///
    /// # Errors
    /// [`Fault::Ranks`] when it isn't a member.
    pub fn number(&self, rank: RankId) -> Result<u32, Fault> {
        match self.0.iter().position(|&member| member == rank) {
            Some(at) => Ok(u32::try_from(at).unwrap_or(u32::MAX)),
            None => refused(format!("{rank} isn't among {:?}", self.0)),
        }
    }

    /// Those that stay when `lost` leave, and NCCL's numbers of those that leave.
    ///
    /// # Errors
    /// [`Fault::Ranks`] when one of them isn't a member, none leaves, or nobody stays.
    pub fn without(&self, lost: &BTreeSet<RankId>) -> Result<(Self, Vec<u32>), Fault> {
        let mut out = lost
            .iter()
            .map(|&rank| self.number(rank))
            .collect::<Result<Vec<_>, _>>()?;
        out.sort_unstable();
        if out.is_empty() {
            return refused("nobody leaves".to_owned());
        }
        let stay = self
            .0
            .iter()
            .copied()
            .filter(|rank| !lost.contains(rank))
            .collect();
        Ok((Self::new(stay)?, out))
    }

    /// With these behind.
    ///
    /// # Errors
    /// [`Fault::Ranks`] when one of them is a member already, or none joins.
    pub fn with(&self, joining: &[RankId]) -> Result<Self, Fault> {
        if joining.is_empty() {
            return refused("nobody joins".to_owned());
        }
        Self::new(self.0.iter().chain(joining).copied().collect())
    }

    /// Those that `belongs` holds for, in the same order.
    ///
    /// # Errors
    /// [`Fault::Ranks`] when it holds for none.
    pub fn those(&self, belongs: impl Fn(RankId) -> bool) -> Result<Self, Fault> {
        Self::new(self.0.iter().copied().filter(|&rank| belongs(rank)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ranks: &[u32]) -> Members {
        Members::new(ranks.iter().copied().map(RankId).collect()).unwrap()
    }

    #[test]
    fn who_stays_moves_up_and_who_joins_comes_last() {
        let all = members(&[4, 7, 1, 9]);
        let (left, out) = all.without(&BTreeSet::from([RankId(9), RankId(7)])).unwrap();
        assert_eq!((left.ranks(), out), (&[RankId(4), RankId(1)][..], vec![1, 3]));
        let grown = left.with(&[RankId(7)]).unwrap();
        assert_eq!(grown, members(&[4, 1, 7]));
        assert_eq!((grown.number(RankId(7)), grown.number(RankId(4))), (Ok(2), Ok(0)));
        assert_eq!(grown.those(|rank| rank.0 != 1).unwrap(), members(&[4, 7]));
    }

    #[test]
    fn ranks_that_do_not_fit_are_refused() {
        let all = members(&[0, 1]);
        assert!(Members::new(vec![]).is_err() && Members::new(vec![RankId(1); 2]).is_err());
        assert!(all.number(RankId(2)).is_err() && all.with(&[RankId(1)]).is_err() && all.with(&[]).is_err());
        for lost in [vec![], vec![RankId(5)], vec![RankId(0), RankId(1)]] {
            assert!(all.without(&lost.iter().copied().collect()).is_err(), "{lost:?}");
        }
    }
}
