//! Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a counter in, four random words
//! out.

const MULTIPLY: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// A keyed function from counters to random words. It has no state: the same counter gives the same words anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// The function of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            key: [seed as u32, (seed >> 32) as u32],
        }
    }

    /// Four words for a counter.
    #[must_use]
    pub fn words(&self, counter: [u32; 4]) -> [u32; 4] {
        let (mut c, mut key) = (counter, self.key);
        for round in 0..10 {
            if round > 0 {
                key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
            }
            let (p0, p1) = (
                u64::from(MULTIPLY[0]) * u64::from(c[0]),
                u64::from(MULTIPLY[1]) * u64::from(c[2]),
            );
            c = [
                (p1 >> 32) as u32 ^ c[1] ^ key[0],
                p1 as u32,
                (p0 >> 32) as u32 ^ c[3] ^ key[1],
                p0 as u32,
            ];
        }
        c
    }

    /// Two numbers strictly between 0 and 1 for a counter, 53 bits each.
    #[must_use]
    pub fn uniforms(&self, counter: [u32; 4]) -> [f64; 2] {
        let w = self.words(counter);
        let unit = |low: u32, high: u32| {
            let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
            (bits as f64 + 0.5) * (1.0 / (1u64 << 53) as f64)
        };
        [unit(w[0], w[1]), unit(w[2], w[3])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_the_reference_implementation() {
        // Random123's kat_vectors, philox4x32 with 10 rounds.
        let zero = Philox { key: [0, 0] };
        assert_eq!(
            zero.words([0; 4]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        let ones = Philox { key: [u32::MAX; 2] };
        assert_eq!(
            ones.words([u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        let pi = Philox {
            key: [0xa409_3822, 0x299f_31d0],
        };
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(
            pi.words(counter),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
