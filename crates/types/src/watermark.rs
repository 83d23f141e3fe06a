//! What a trainer says while a step takes long: how far it is, and whom it waits for.
//!
//! A trainer that hasn't committed a step for a while says so again and again, whether it gets on or not. So of a
//! gang that stands still everybody but the one at fault is heard to wait for another, and one that others wait for
//! and that says nothing stands still itself. Deliberately absent: what follows from that (the coordinator's
//! business), and any length of a step that would be too long.

use serde::{Deserialize, Serialize};

use crate::RankId;

/// How far a trainer is that hasn't committed a step for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watermark {
    /// The step it is at, 1-based; 0: it is not at its steps yet.
    pub step: u64,
    /// Forwards and backwards of micro-batches since the process began: it only rises, and does where work is done.
    pub passes: u64,
    /// Whom it has waited for so long that it is worth saying; none: it computes, or is stuck by itself.
    pub waits: Option<Wait>,
}

impl Watermark {
    /// What tells whether there was progress between two of them.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.step, self.passes)
    }
}

/// A wait of a trainer for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// The rank it waits for.
    pub on: RankId,
    /// What it waits for, for a person.
    pub what: String,
    /// How long so far, milliseconds.
    pub ms: u64,
}
