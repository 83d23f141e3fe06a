//! What is written about a set, and whether it is still what was written.
//!
//! ```text
//!   8 bytes length of the text, 8 bytes its checksum, the text: the seal as JSON, zeros up to SEAL bytes
//! ```

use rekindle_types::{Epoch, RankId};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{Damaged, Group, ParityError};

/// Bytes that a seal takes: a group of 255 members fits.
pub const SEAL: usize = 32 << 10;

/// About one member's set: its state as of a step, and its parities of that step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// The epoch whose trainers exchanged the pieces: sets of two epochs are never mixed.
    pub epoch: Epoch,
    /// The last step whose update is in the states.
    pub step: u64,
    /// The members' ranks, in order.
    pub members: Vec<RankId>,
    /// Which of them has this set.
    pub member: usize,
    /// How many of them may be lost.
    pub losses: usize,
    /// Bytes of each member's state.
    pub sizes: Vec<u64>,
    /// The checksum of each member's state: what is rebuilt is compared with it.
    pub states: Vec<u64>,
    /// The checksums of this member's parities.
    pub parities: Vec<u64>,
}

/// The checksum of a state or a parity (xxh3).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

impl Seal {
    /// Writes it to the first of `bytes`, which are [`SEAL`] at least. Refuses one that is too long.
    ///
    /// # Errors
    /// [`Damaged::Seal`].
    pub fn write(&self, bytes: &mut [u8]) -> Result<(), Damaged> {
        let text = serde_json::to_vec(self).map_err(|_| Damaged::Seal)?;
        let place = bytes.get_mut(..SEAL).filter(|_| text.len() + 16 <= SEAL);
        let place = place.ok_or(Damaged::Seal)?;
        place[..8].copy_from_slice(&(text.len() as u64).to_le_bytes());
        place[8..16].copy_from_slice(&checksum(&text).to_le_bytes());
        place[16..16 + text.len()].copy_from_slice(&text);
        Ok(())
    }

    /// Reads it from the first of `bytes`.
    ///
    /// # Errors
    /// [`Damaged::Seal`] when it isn't there, or not whole.
    pub fn read(bytes: &[u8]) -> Result<Self, Damaged> {
        let number = |at: usize| {
            let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
            word.map(u64::from_le_bytes).ok_or(Damaged::Seal)
        };
        let length = usize::try_from(number(0)?).ok().filter(|n| *n <= SEAL - 16);
        let text = length.and_then(|length| bytes.get(16..16 + length));
        let text = text.ok_or(Damaged::Seal)?;
        if checksum(text) != number(8)? {
            return Err(Damaged::Seal);
        }
        let seal: Self = serde_json::from_slice(text).map_err(|_| Damaged::Seal)?;
        let whole = seal.member < seal.members.len()
            && [seal.sizes.len(), seal.states.len()] == [seal.members.len(); 2]
            && seal.group().is_ok();
        if whole { Ok(seal) } else { Err(Damaged::Seal) }
    }

    /// The group that the set is of.
    ///
    /// # Errors
    /// [`ParityError::Shape`] when there is no such group.
    pub fn group(&self) -> Result<Group, ParityError> {
        Group::new(self.sizes.clone(), self.losses)
    }

    /// Whether the state and the parities are those that were sealed (VA-6).
    ///
    /// # Errors
    /// [`Damaged`] with what was changed.
    pub fn check(&self, state: &[u8], parities: &[u8]) -> Result<(), Damaged> {
        let own = self.states.get(self.member);
        if self.sizes.get(self.member) != Some(&(state.len() as u64)) || own != Some(&checksum(state)) {
            return Err(Damaged::State);
        }
        let ranges = self.group().map_err(|_| Damaged::Seal)?.parities(self.member);
        for (number, range) in ranges.iter().enumerate() {
            let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
            let parity = parities.get(at(range.start)..at(range.end)).map(checksum);
            if parity.is_none() || self.parities.get(number).copied() != parity {
                return Err(Damaged::Parity { number });
            }
        }
        Ok(())
    }
}
