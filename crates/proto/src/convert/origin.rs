//! What trainers start from.
//!
//! A rank is refilled by a guard, by sets of parities or by a mean, never by two of them.

use rekindle_types::{Origin, RankId, Rebuilt, Refill, Share};

use super::ConvertError;
use super::parity::parities;
use crate::pb::v1;
use crate::pb::worker::v1 as pb;

impl From<&Rebuilt> for v1::RebuiltLayer {
    fn from(rebuilt: &Rebuilt) -> Self {
        Self {
            layer: rebuilt.layer,
            after: rebuilt.after,
            count_from: rebuilt.count_from,
        }
    }
}

/// In pipeline order, each layer once; nothing was made up before it began to count.
pub(super) fn rebuilt(layers: &[v1::RebuiltLayer]) -> Result<Vec<Rebuilt>, ConvertError> {
    let rises = layers.windows(2).all(|pair| pair[0].layer < pair[1].layer);
    if !rises || layers.iter().any(|layer| layer.count_from > layer.after) {
        return Err(ConvertError::new("rebuilt", "is out of order"));
    }
    let of = |layer: &v1::RebuiltLayer| Rebuilt {
        layer: layer.layer,
        after: layer.after,
        count_from: layer.count_from,
    };
    Ok(layers.iter().map(of).collect())
}

/// All of the message but job, epoch and peers.
impl From<&Origin> for pb::ConnectTrainers {
    fn from(from: &Origin) -> Self {
        let mut message = Self {
            local_step: from.step,
            save: from.save,
            rebuilt: from.rebuilt.iter().map(Into::into).collect(),
            ..Self::default()
        };
        for (rank, refill) in &from.refills {
            match refill {
                Refill::Guard(guard) => drop(message.guards.insert(rank.0, guard.0)),
                Refill::Parity(of) => drop(message.parities.insert(rank.0, of.into())),
                Refill::Mean(shares) => drop(message.means.insert(rank.0, mean(shares, false))),
                Refill::Best { best_of } => drop(message.means.insert(rank.0, mean(best_of, true))),
            }
        }
        message
    }
}

fn mean(shares: &[Share], best: bool) -> pb::Mean {
    let share = |share: &Share| pb::Share {
        rank: share.rank.0,
        share: share.share,
    };
    pb::Mean {
        shares: shares.iter().map(share).collect(),
        best,
    }
}

impl TryFrom<&pb::ConnectTrainers> for Origin {
    type Error = ConvertError;

    fn try_from(message: &pb::ConnectTrainers) -> Result<Self, ConvertError> {
        let guards = message.guards.iter();
        let mut refills: std::collections::BTreeMap<_, _> = guards
            .map(|(rank, guard)| (RankId(*rank), Refill::Guard(RankId(*guard))))
            .collect();
        for (rank, of) in &message.parities {
            if refills
                .insert(RankId(*rank), Refill::Parity(parities(of)?))
                .is_some()
            {
                return Err(ConvertError::new("parities", "has a rank that a guard refills"));
            }
        }
        for (rank, mean) in &message.means {
            if refills.insert(RankId(*rank), shares(mean)?).is_some() {
                return Err(ConvertError::new("means", "has a rank that others refill"));
            }
        }
        Ok(Self {
            step: message.local_step,
            refills,
            rebuilt: rebuilt(&message.rebuilt)?,
            save: message.save,
        })
    }
}

fn shares(mean: &pb::Mean) -> Result<Refill, ConvertError> {
    let good = |share: &pb::Share| (0.0..=1.0).contains(&share.share);
    if mean.shares.is_empty() || !mean.shares.iter().all(good) {
        return Err(ConvertError::new(
            "means",
            "has shares that aren't between 0 and 1",
        ));
    }
    let share = |share: &pb::Share| Share {
        rank: RankId(share.rank),
        share: share.share,
    };
    let shares = mean.shares.iter().map(share).collect();
    Ok(match mean.best {
        true => Refill::Best { best_of: shares },
        false => Refill::Mean(shares),
    })
}
