//! What lies in memory of groups that keep parities of each other's states (source `parity`): what trainers tell of
//! it, and who works out what of it.

use serde::{Deserialize, Serialize};

use crate::{Epoch, RankId};

/// A rank's state as of a step, with its parities of its group's states of that step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParitySet {
    /// The last step whose update is in it.
    pub step: u64,
    /// The epoch whose trainers exchanged it: sets of two epochs don't go together.
    pub epoch: Epoch,
    /// The ranks of the group, in order; the rank alone where it is in none.
    pub members: Vec<RankId>,
}

/// Where a rank's state comes from that isn't in its own worker's memory but in its group's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parities {
    /// The epoch whose trainers exchanged the sets.
    pub epoch: Epoch,
    /// The ranks of the group, in order.
    pub members: Vec<RankId>,
    /// Those of them that have their sets. The rank itself among them: it takes its state out of its own.
    pub from: Vec<RankId>,
}
