//! The first words on a connection: both ends say who they are, the accepting end decides.
//!
//! A greeting has 96 bytes, numbers little-endian:
//!
//! | bytes  | what |
//! |--------|------|
//! | 0..4   | magic `RKHS` |
//! | 4..6   | protocol version |
//! | 6      | status: 0 hello or welcome; refusals: 1 version, 2 job, 3 epoch, 4 rank, 5 link, 6 world |
//! | 7      | length of the job id, 1 to 63 |
//! | 8..72  | job id, padded with zeros |
//! | 72..80 | epoch |
//! | 80..84 | rank that sends the greeting |
//! | 84..88 | rank it is meant for |
//! | 88..92 | world size |
//! | 92..96 | low half of xxh3-64 of bytes 0..92 |
//!
//! In: bytes or a [`Greeting`]. Out: the other one; [`judge`] is the accepting end's pure decision.

use std::collections::BTreeSet;

use rekindle_types::{Epoch, JobId, RankId};

use crate::wire::checksum;
use crate::{Identity, ProtocolError, RefusalReason};

/// Length of a greeting.
pub const GREETING_BYTES: usize = 96;
/// Raised with every change of the bytes on the wire.
pub const PROTOCOL_VERSION: u16 = 2;
const MAGIC: [u8; 4] = *b"RKHS";

/// Who speaks, to whom, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Protocol version of the speaker.
    pub version: u16,
    /// `None`: hello or welcome.
    pub refusal: Option<RefusalReason>,
    /// The speaker.
    pub from: Identity,
    /// Whom it wants to speak to.
    pub to: RankId,
}

fn refusal_code(refusal: Option<RefusalReason>) -> u8 {
    match refusal {
        None => 0,
        Some(RefusalReason::Version) => 1,
        Some(RefusalReason::Job) => 2,
        Some(RefusalReason::Epoch) => 3,
        Some(RefusalReason::Rank) => 4,
        Some(RefusalReason::Link) => 5,
        Some(RefusalReason::World) => 6,
    }
}

fn refusal_of(code: u8) -> Result<Option<RefusalReason>, ProtocolError> {
    Ok(Some(match code {
        0 => return Ok(None),
        1 => RefusalReason::Version,
        2 => RefusalReason::Job,
        3 => RefusalReason::Epoch,
        4 => RefusalReason::Rank,
        5 => RefusalReason::Link,
        6 => RefusalReason::World,
        _ => {
            return Err(ProtocolError::Malformed {
                why: "unknown status of a greeting",
            });
        }
    }))
}

fn u32_at(bytes: &[u8; GREETING_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Greeting {
    /// The greeting's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut out = [0; GREETING_BYTES];
        let job = self.from.job.as_str().as_bytes();
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&self.version.to_le_bytes());
        out[6] = refusal_code(self.refusal);
        out[7] = job.len() as u8; // a job id has at most 63 bytes
        out[8..8 + job.len()].copy_from_slice(job);
        out[72..80].copy_from_slice(&self.from.epoch.0.to_le_bytes());
        out[80..84].copy_from_slice(&self.from.rank.0.to_le_bytes());
        out[84..88].copy_from_slice(&self.to.0.to_le_bytes());
        out[88..92].copy_from_slice(&self.from.world.to_le_bytes());
        let sum = checksum(&out[..92]);
        out[92..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a greeting.
    ///
    /// # Errors
    /// `Malformed` or `Checksum`.
    pub fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Self, ProtocolError> {
        let malformed = |why| ProtocolError::Malformed { why };
        if bytes[..4] != MAGIC {
            return Err(malformed("not a greeting: the magic bytes differ"));
        }
        let (found, computed) = (u32_at(bytes, 92), checksum(&bytes[..92]));
        if found != computed {
            return Err(ProtocolError::Checksum {
                what: "greeting",
                found,
                computed,
            });
        }
        let job = bytes.get(8..8 + usize::from(bytes[7])).filter(|_| bytes[7] < 64);
        let job = job
            .and_then(|job| std::str::from_utf8(job).ok())
            .ok_or(malformed("the job id is no text"))?;
        let mut epoch = [0; 8];
        epoch.copy_from_slice(&bytes[72..80]);
        Ok(Self {
            version: u16::from_le_bytes([bytes[4], bytes[5]]),
            refusal: refusal_of(bytes[6])?,
            from: Identity {
                job: JobId::new(job).map_err(|_| malformed("the job id isn't valid"))?,
                epoch: Epoch(u64::from_le_bytes(epoch)),
                rank: RankId(u32_at(bytes, 80)),
                world: u32_at(bytes, 88),
            },
            to: RankId(u32_at(bytes, 84)),
        })
    }
}

/// Whether `hello` may have a connection to `me`, which waits for `expected`.
pub(crate) fn judge(hello: &Greeting, me: &Identity, expected: &BTreeSet<RankId>) -> Option<RefusalReason> {
    if hello.version != PROTOCOL_VERSION {
        Some(RefusalReason::Version)
    } else if hello.from.job != me.job {
        Some(RefusalReason::Job)
    } else if hello.from.epoch != me.epoch {
        Some(RefusalReason::Epoch)
    } else if hello.from.world != me.world {
        Some(RefusalReason::World)
    } else if hello.to != me.rank {
        Some(RefusalReason::Rank)
    } else if !expected.contains(&hello.from.rank) {
        Some(RefusalReason::Link)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_well_summed_greeting_is_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), GREETING_BYTES)) {
            bytes[..4].copy_from_slice(&MAGIC);
            let sum = checksum(&bytes[..92]);
            bytes[92..].copy_from_slice(&sum.to_le_bytes());
            let bytes: [u8; GREETING_BYTES] = bytes.try_into().unwrap();
            let _ = Greeting::decode(&bytes);
        }

        #[test]
        fn greetings_survive_the_wire(job in "[a-z0-9][a-z0-9._-]{0,62}", epoch: u64, rank: u32, to: u32, world: u32, status in 0_u8..7) {
            let from = Identity { job: JobId::new(job).unwrap(), epoch: Epoch(epoch), rank: RankId(rank), world };
            let refusal = refusal_of(status).unwrap();
            let greeting = Greeting { version: PROTOCOL_VERSION, refusal, from, to: RankId(to) };
            prop_assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
        }
    }
}
