//! The group of a rank, with the sizes of its members' states.

use rekindle_plan::parity_groups;
use rekindle_types::RankId;
use rekindle_vault::parity::Group;

use crate::trainer::TrainerError;
use crate::trainer::context::Context;
use crate::trainer::shadow::pieces;

/// Ranks that keep parities of each other's states.
#[derive(Debug, Clone)]
pub struct Members {
    /// In order.
    pub ranks: Vec<RankId>,
    /// Which of them this rank is.
    pub me: usize,
    /// What they keep.
    pub group: Group,
}

impl Members {
    /// This rank's in its plan. A rank that is in no group is one of its own: it keeps its state, as all go back
    /// together.
    ///
    /// # Errors
    /// [`TrainerError::Protocol`].
    pub fn of(context: &Context) -> Result<Self, TrainerError> {
        let settings = &context.spec.recovery.parity;
        let groups = parity_groups(&context.plan, settings);
        let found = groups.into_iter().find(|group| group.contains(&context.id()));
        match found {
            Some(ranks) => Self::new(context, ranks, settings.losses as usize),
            None => Self::new(context, vec![context.id()], 0),
        }
    }

    /// These ranks, one of which is this one.
    ///
    /// # Errors
    /// [`TrainerError::Protocol`] when it isn't, or there is no such group.
    pub fn new(context: &Context, ranks: Vec<RankId>, losses: usize) -> Result<Self, TrainerError> {
        let wrong = |what: String| TrainerError::Protocol { what };
        let me = ranks.iter().position(|rank| *rank == context.id());
        let me = me.ok_or_else(|| wrong(format!("{} is in no group of {ranks:?}", context.rank)))?;
        let sizes = ranks.iter().map(|rank| state_bytes(context, *rank)).collect();
        let group = Group::new(sizes, losses).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { ranks, me, group })
    }

    /// The ranks but this one, with their numbers in the group.
    pub fn others(&self) -> impl Iterator<Item = (usize, RankId)> + '_ {
        let all = self.ranks.iter().copied().enumerate();
        all.filter(|(number, _)| *number != self.me)
    }
}

/// Bytes of what a rank owns: its [`pieces`], one after the other.
#[must_use]
pub fn state_bytes(context: &Context, rank: RankId) -> u64 {
    let bytes = |(layer, _)| 4 * context.owned_by(rank, layer).len() as u64;
    pieces(context, rank).into_iter().map(bytes).sum()
}
