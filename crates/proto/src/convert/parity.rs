//! Sets of states and parities, and who takes what out of which.

use rekindle_types::{InMemory, Parities, ParitySet, RankId};

use super::{ConvertError, epoch};

use crate::pb::worker::v1 as pb;

/// What a trainer found.
pub(super) fn sets(sets: Vec<pb::ParitySet>) -> Result<Vec<ParitySet>, ConvertError> {
    if sets.len() > InMemory::MOST_SETS {
        let why = format!("has {} entries; {} is the most", sets.len(), InMemory::MOST_SETS);
        return Err(ConvertError::new("parity_sets", why));
    }
    sets.into_iter().map(TryInto::try_into).collect()
}

/// As many as a group has members at most.
const MOST_MEMBERS: usize = 255;

fn members(ranks: Vec<u32>) -> Result<Vec<RankId>, ConvertError> {
    match ranks.len() {
        0..=MOST_MEMBERS => Ok(ranks.into_iter().map(RankId).collect()),
        more => {
            let why = format!("has {more} entries; {MOST_MEMBERS} is the most");
            Err(ConvertError::new("members", why))
        }
    }
}

impl From<&Parities> for pb::Parities {
    fn from(of: &Parities) -> Self {
        let numbers = |ranks: &[RankId]| ranks.iter().map(|rank| rank.0).collect();
        Self {
            epoch: of.epoch.0,
            members: numbers(&of.members),
            from: numbers(&of.from),
        }
    }
}

/// Who takes what out of which sets.
pub(super) fn parities(of: &pb::Parities) -> Result<Parities, ConvertError> {
    Ok(Parities {
        epoch: epoch(of.epoch),
        members: members(of.members.clone())?,
        from: members(of.from.clone())?,
    })
}

impl From<&ParitySet> for pb::ParitySet {
    fn from(set: &ParitySet) -> Self {
        Self {
            step: set.step,
            epoch: set.epoch.0,
            members: set.members.iter().map(|rank| rank.0).collect(),
        }
    }
}

impl TryFrom<pb::ParitySet> for ParitySet {
    type Error = ConvertError;

    fn try_from(set: pb::ParitySet) -> Result<Self, ConvertError> {
        Ok(Self {
            step: set.step,
            epoch: epoch(set.epoch),
            members: members(set.members)?,
        })
    }
}
