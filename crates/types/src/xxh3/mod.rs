//! xxh3_128 with the widest vectors this processor has.
//!
//! The library is compiled for the vectors that every processor has. State is hashed in bulk, much of it while it is
//! in the cache, and there wider ones are twice as fast. Short inputs, and all of them where there are no wider
//! vectors, go to the library.

#[cfg(target_arch = "x86_64")]
mod wide;

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Longest input that is hashed in another way.
#[cfg(target_arch = "x86_64")]
const SHORT: usize = 240;

/// Block, seed, and whether more is to come from memory.
#[cfg(target_arch = "x86_64")]
type Hash = fn(&[u8], u64, bool) -> u128;

/// xxh3_128 of a block, with a seed, and how many bytes right after it will be hashed next: memory that is far away
/// is asked for in time.
#[cfg(target_arch = "x86_64")]
pub(crate) fn xxh3_128(block: &[u8], seed: u64, next: usize) -> u128 {
    static BEST: std::sync::OnceLock<Option<Hash>> = std::sync::OnceLock::new();
    match BEST.get_or_init(wide::best) {
        Some(hash) if block.len() > SHORT => hash(block, seed, next >= wide::AHEAD),
        _ => xxh3_128_with_seed(block, seed),
    }
}

/// xxh3_128 of a block, with a seed; the bytes after it don't matter here.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn xxh3_128(block: &[u8], seed: u64, _next: usize) -> u128 {
    xxh3_128_with_seed(block, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes, seed, the library's hash and a name, over lengths around every border.
    pub(super) fn each_case(check: impl Fn(&[u8], u64, u128, &str)) {
        let bytes: Vec<u8> = (0..20_000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let lengths = (0..1300).chain([2047, 2048, 4095, 4096, 4097, 8192, 16_384, 20_000]);
        for len in lengths {
            for seed in [0, 1, 0xDEAD_BEEF_0123_4567, u64::MAX] {
                let want = xxh3_128_with_seed(&bytes[..len], seed);
                check(&bytes[..len], seed, want, &format!("{len} bytes, seed {seed}"));
            }
        }
    }

    #[test]
    fn hashes_are_those_of_the_library_whatever_comes_next() {
        each_case(|bytes, seed, want, case| {
            for next in [0, 4096, 1 << 20] {
                assert_eq!(xxh3_128(bytes, seed, next), want, "{case}, {next} to come");
            }
        });
    }
}
