//! Digests of state that don't depend on who holds which part. The same sums check the blocks of checkpoint files, so
//! that a file's digests add up to the digest that the run reported.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::xxh3::xxh3_128;
use crate::{BLOCK, LayerId};

/// What a flat buffer of a layer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// The weights.
    Weights,
    /// AdamW's first moment.
    ExpAvg,
    /// AdamW's second moment.
    ExpAvgSq,
}

impl StateKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Weights, Self::ExpAvg, Self::ExpAvgSq];

    /// The name used on every surface.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::ExpAvg => "exp_avg",
            Self::ExpAvgSq => "exp_avg_sq",
        }
    }
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The number of a layer in random counters and digests: its pipeline order, the head apart from the number of blocks.
#[must_use]
pub fn layer_code(layer: LayerId) -> u32 {
    match layer {
        LayerId::Embed => 0,
        LayerId::Block(n) => n + 1,
        LayerId::Head => 0xFF_FFFF,
    }
}

/// The wrapping sum over blocks of xxh3_128 of their bytes, seeded by (layer, kind, block). Digests of disjoint parts
/// add up to the digest of the whole. As text: 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StateDigest(pub u128);

impl FromStr for StateDigest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(value) if hex => Ok(Self(value)),
            _ => Err(format!("{text:?} is no digest; 32 hex digits are")),
        }
    }
}

impl TryFrom<String> for StateDigest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<StateDigest> for String {
    fn from(digest: StateDigest) -> String {
        digest.to_string()
    }
}

impl StateDigest {
    /// The digest of both parts.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // `+` would hide that it wraps
    pub fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The digest of `bytes`, elements of `element_bytes` from block `first_block` of a layer's buffer on.
    #[must_use]
    pub fn of_blocks(
        layer: LayerId,
        kind: StateKind,
        first_block: usize,
        bytes: &[u8],
        element_bytes: usize,
    ) -> Self {
        let mut left = bytes.len();
        let blocks = bytes.chunks(BLOCK * element_bytes).enumerate();
        blocks.fold(Self::default(), |digest, (i, block)| {
            left -= block.len();
            let seed = u64::from(layer_code(layer)) << 40 | (kind as u64) << 36 | (first_block + i) as u64;
            digest.add(Self(xxh3_128(block, seed, left)))
        })
    }
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_32_hex_digits() {
        let digest = StateDigest(0xabc);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for bad in ["", "abc", &"g".repeat(32), &"+".repeat(32), &"0".repeat(33)] {
            assert!(bad.parse::<StateDigest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_add_up_and_every_place_counts() {
        let bytes: Vec<u8> = (0..3 * BLOCK * 4 + 40).map(|i| (i % 251) as u8).collect();
        let of = |first: usize, bytes: &[u8]| {
            StateDigest::of_blocks(LayerId::Block(1), StateKind::ExpAvg, first, bytes, 4)
        };
        let (low, high) = bytes.split_at(2 * BLOCK * 4);
        assert_eq!(of(0, &bytes), of(0, low).add(of(2, high)));
        assert_ne!(of(0, &bytes), of(1, &bytes));
        assert_ne!(
            of(0, &bytes),
            StateDigest::of_blocks(LayerId::Block(1), StateKind::Weights, 0, &bytes, 4)
        );
        assert_ne!(
            of(0, &bytes),
            StateDigest::of_blocks(LayerId::Block(2), StateKind::ExpAvg, 0, &bytes, 4)
        );
    }
}
