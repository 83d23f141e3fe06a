//! A keyed bijection of `0..n` that needs no memory.
//!
//! In: a key and a size. Out: where an index goes. An even Feistel network over the next power of four, walked until
//! the value falls inside `0..n` (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA
//! 2002, section 3). The network's domain is less than four times `n`, so a walk takes fewer than four rounds of the
//! network on average.
//!
//! Deliberately absent: cryptographic strength. It shuffles training data.

const ROUNDS: u64 = 6;

/// A permutation of `0..size`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permutation {
    key: u64,
    size: u64,
    half_bits: u32,
}

impl Permutation {
    /// The permutation of `0..size` that belongs to `key`. `size` is at least 1.
    pub(crate) fn new(key: u64, size: u64) -> Self {
        let bits = u64::BITS - (size - 1).leading_zeros();
        Self {
            key,
            size,
            half_bits: bits.div_ceil(2).max(1),
        }
    }

    /// Where `index` (below the size) goes.
    pub(crate) fn apply(self, index: u64) -> u64 {
        let mut value = self.network(index);
        while value >= self.size {
            value = self.network(value);
        }
        value
    }

    fn network(self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (mix(mix(self.key ^ round) ^ right) & mask));
        }
        (left << self.half_bits) | right
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_bijection(key: u64, size: u64) -> bool {
        let mut seen = vec![false; usize::try_from(size).unwrap()];
        for index in 0..size {
            let to = usize::try_from(Permutation::new(key, size).apply(index)).unwrap();
            if std::mem::replace(&mut seen[to], true) {
                return false;
            }
        }
        true
    }

    #[test]
    fn every_small_size_is_a_bijection() {
        for size in 1..300 {
            assert!(is_bijection(size * 31, size), "size {size}");
        }
    }

    #[test]
    fn huge_sizes_stay_inside() {
        for size in [u64::MAX, (1 << 63) + 1, 1 << 62, (1 << 40) - 3] {
            for index in [0, 1, size / 2, size - 1] {
                assert!(Permutation::new(7, size).apply(index) < size);
            }
        }
    }

    #[test]
    fn neighbours_are_scattered() {
        let size = 10_000;
        let permutation = Permutation::new(3, size);
        let near = (1..size)
            .filter(|&i| permutation.apply(i).abs_diff(permutation.apply(i - 1)) < 100)
            .count();
        // A random permutation has about 2 % of neighbours that close.
        assert!(
            (100..400).contains(&near),
            "{near} of {size} neighbours are still close"
        );
    }
}
