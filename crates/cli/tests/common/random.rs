//! A small generator, so that a failing sequence can be run again (Marsaglia 2003, xorshift64).

/// Its state; not 0.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// A sequence of its own for each seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let mut random = Self(0x9E37_79B9_7F4A_7C15 ^ (seed + 1).wrapping_mul(0xBF58_476D_1CE4_E5B9));
        let _ = random.below(2);
        random
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// A number from `from` to `to`.
    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        (!all.is_empty()).then(|| &all[self.below(all.len() as u64) as usize])
    }
}
