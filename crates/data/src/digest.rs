//! A digest of the tokens a step consumed.
//!
//! In: for each sample its place in the step and its tokens. Out: 128 bits. Samples are hashed one by one (XXH3-128
//! of the ids as little-endian u32, seeded by the place) and added with wrap-around, so parts from several lanes add
//! up to the whole in any order.
//!
//! Deliberately absent: resistance against someone who wants two batches to collide.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

/// The digest of some samples of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DataDigest(u128);

impl DataDigest {
    /// Adds the sample at `place` of the step's global batch. `tokens` are all `seq_len + 1` of them.
    pub fn add(&mut self, place: u64, tokens: &[u32]) {
        let mut hasher = Xxh3::with_seed(place);
        let mut bytes = [0u8; 1024];
        for part in tokens.chunks(bytes.len() / 4) {
            for (to, id) in bytes.chunks_exact_mut(4).zip(part) {
                to.copy_from_slice(&id.to_le_bytes());
            }
            hasher.update(&bytes[..part.len() * 4]);
        }
        self.0 = self.0.wrapping_add(hasher.digest128());
    }

    /// Adds the digest of other samples of the same step.
    pub fn merge(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    /// The 128 bits.
    #[must_use]
    pub fn value(self) -> u128 {
        self.0
    }

    /// The digest with these 128 bits, as received from another rank.
    #[must_use]
    pub fn from_value(value: u128) -> Self {
        Self(value)
    }
}

impl fmt::Display for DataDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_128_with_seed;

    fn digest(samples: &[(u64, &[u32])]) -> DataDigest {
        let mut digest = DataDigest::default();
        samples
            .iter()
            .for_each(|(place, tokens)| digest.add(*place, tokens));
        digest
    }

    #[test]
    fn one_sample_is_the_plain_hash() {
        let tokens: Vec<u32> = (0..700).collect();
        let bytes: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
        assert_eq!(digest(&[(5, &tokens)]).value(), xxh3_128_with_seed(&bytes, 5));
    }

    #[test]
    fn lanes_add_up_and_order_does_not_show() {
        let whole = digest(&[(0, &[1, 2]), (1, &[3, 4]), (2, &[1, 2])]);
        let mut parts = digest(&[(2, &[1, 2])]);
        parts.merge(digest(&[(1, &[3, 4]), (0, &[1, 2])]));
        assert_eq!(parts, whole);
    }

    #[test]
    fn places_and_tokens_show() {
        let base = digest(&[(0, &[1, 2]), (1, &[3, 4])]);
        assert_ne!(base, digest(&[(1, &[1, 2]), (0, &[3, 4])]));
        assert_ne!(base, digest(&[(0, &[1, 2]), (1, &[3, 5])]));
        assert_ne!(base, digest(&[(0, &[1, 2])]));
    }
}
