//! Digests of state that don't depend on who holds which part.

use std::fmt;

use rekindle_types::{BLOCK, LayerId};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::init::layer_code;

/// What a flat buffer of a layer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateKind {
    /// The weights.
    Weights,
    /// AdamW's first moment.
    ExpAvg,
    /// AdamW's second moment.
    ExpAvgSq,
}

/// The wrapping sum over blocks of xxh3_128 of their bytes, seeded by (layer, kind, block). Digests of disjoint parts add up to
/// the digest of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StateDigest(pub u128);

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
        bytes
            .chunks(BLOCK * element_bytes)
            .enumerate()
            .fold(Self::default(), |digest, (i, block)| {
                let seed =
                    u64::from(layer_code(layer)) << 40 | (kind as u64) << 36 | (first_block + i) as u64;
                digest.add(Self(xxh3_128_with_seed(block, seed)))
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
