//! What trainers go on from: which state, where the ranks get theirs from, and what was made up on the way.
//!
//! Decided by the coordinator once an epoch, the same for every rank.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Parities, RankId};

/// What the trainers of a plan are told about the state they start from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The step whose state they take from their workers' memory; none: they start from the plan's start.
    pub step: Option<u64>,
    /// With `step`: ranks that have it not in their own worker's memory, and where they get it from.
    #[serde(default)]
    pub refills: BTreeMap<RankId, Refill>,
    /// Layers whose state was made up, by this recovery or an earlier one; in pipeline order.
    #[serde(default)]
    pub rebuilt: Vec<Rebuilt>,
    /// Whether they save that state first: a checkpoint of it is owed.
    #[serde(default)]
    pub save: bool,
}

/// Where a rank gets its state from that isn't in its own worker's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Refill {
    /// This rank has it in its worker's memory, where a guard left it, and sends it. Exact.
    Guard(RankId),
    /// It is in sets of parities: its own, which it takes it out of, or those of its group, which it is worked out
    /// from. Exact.
    Parity(Parities),
    /// Nobody has it: it is made of what these ranks have, whose shares add up to 1. Approximate.
    Mean(Vec<Share>),
    /// The same, but the trainers try other shares of these ranks, too, and take those with the lowest loss on a
    /// micro-batch. Approximate.
    Best {
        /// The shares that are tried first.
        best_of: Vec<Share>,
    },
}

impl Refill {
    /// Whether the state is the one that was lost, bit for bit.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        matches!(self, Self::Guard(_) | Self::Parity(_))
    }

    /// What it is made of, where it is made up; with [`Refill::Best`] before anything is tried.
    #[must_use]
    pub fn shares(&self) -> Option<&[Share]> {
        match self {
            Self::Guard(_) | Self::Parity(_) => None,
            Self::Mean(shares) | Self::Best { best_of: shares } => Some(shares),
        }
    }

    /// The ranks that send something.
    #[must_use]
    pub fn senders(&self) -> Vec<RankId> {
        match self {
            Self::Guard(rank) => vec![*rank],
            Self::Parity(parities) => parities.from.clone(),
            Self::Mean(shares) | Self::Best { best_of: shares } => {
                shares.iter().map(|share| share.rank).collect()
            }
        }
    }
}

/// How much the state of a rank counts in a mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The rank.
    pub rank: RankId,
    /// Between 0 and 1.
    pub share: f64,
}

/// A layer whose state was made up, and what its updates have to know of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebuilt {
    /// Index of the layer in pipeline order: 0 is the embedding.
    pub layer: u32,
    /// The step after which it was made up.
    pub after: u64,
    /// The step after which its Adam began to count: its bias correction is that of `step - count_from` steps.
    pub count_from: u64,
}

/// The same with what a recovery made up after it: the newest entry of a layer counts.
#[must_use]
pub fn rebuilt_with(before: &[Rebuilt], new: impl IntoIterator<Item = Rebuilt>) -> Vec<Rebuilt> {
    let all = before.iter().copied().chain(new);
    let by_layer: BTreeMap<u32, Rebuilt> = all.map(|rebuilt| (rebuilt.layer, rebuilt)).collect();
    by_layer.into_values().collect()
}

/// Those that the state after `step` holds.
#[must_use]
pub fn rebuilt_by(all: &[Rebuilt], step: u64) -> Vec<Rebuilt> {
    all.iter()
        .copied()
        .filter(|rebuilt| rebuilt.after <= step)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entry_of_a_layer_counts() {
        let of = |layer, after| Rebuilt {
            layer,
            after,
            count_from: after,
        };
        let all = rebuilt_with(&[of(1, 5), of(2, 5)], [of(2, 9), of(0, 9)]);
        assert_eq!(all, [of(0, 9), of(1, 5), of(2, 9)]);
        assert_eq!(rebuilt_by(&all, 8), [of(1, 5)]);
    }

    #[test]
    fn guards_of_older_journals_are_read() {
        let refills: BTreeMap<RankId, Refill> = serde_json::from_str(r#"{"1":0}"#).unwrap();
        assert_eq!(refills[&RankId(1)], Refill::Guard(RankId(0)));
        let shares = vec![Share {
            rank: RankId(2),
            share: 0.25,
        }];
        let mean = Refill::Mean(shares.clone());
        let best = Refill::Best { best_of: shares };
        let parity = Refill::Parity(Parities {
            epoch: crate::Epoch(3),
            members: vec![RankId(0), RankId(1)],
            from: vec![RankId(1)],
        });
        for refill in [mean, best, parity] {
            let text = serde_json::to_string(&refill).unwrap();
            assert_eq!(serde_json::from_str::<Refill>(&text).unwrap(), refill);
        }
    }
}
