//! xxh3_128 of inputs of more than 240 bytes with AVX-512 or AVX2, on x86-64.
//!
//! Plain loops, compiled for each of the two and chosen at run time. They follow the specification (Collet,
//! `doc/xxhash_spec.md` of the xxHash project, XXH3 for inputs of more than 240 bytes); a test holds them equal to
//! the library's over lengths and seeds.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use xxhash_rust::const_xxh3::const_custom_default_secret;

use super::Hash;

/// Bytes that are mixed in at once, and the state's size.
const STRIPE: usize = 64;
const LANES: usize = STRIPE / size_of::<u64>();
const SECRET: usize = 192;
/// By how many bytes the secret moves on with each stripe.
const STEP: usize = 8;
/// Stripes until the secret begins anew.
const STRIPES: usize = (SECRET - STRIPE) / STEP;
/// How far ahead memory is asked for.
pub(super) const AHEAD: usize = 8192;

const DEFAULT_SECRET: [u8; SECRET] = const_custom_default_secret(0);
const PRIME32_1: u64 = 0x9E37_79B1;
const PRIME32_2: u64 = 0x85EB_CA77;
const PRIME32_3: u64 = 0xC2B2_AE3D;
const PRIME64_1: u64 = 0x9E37_79B1_85EB_CA87;
const PRIME64_2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const PRIME64_3: u64 = 0x1656_67B1_9E37_79F9;
const PRIME64_4: u64 = 0x85EB_CA77_C2B2_AE63;
const PRIME64_5: u64 = 0x27D4_EB2F_1656_67C5;
const PRIME_MX1: u64 = 0x1656_6791_9E37_79F9;

type Stripe = [u8; STRIPE];
type State = [u64; LANES];
/// With the widest vectors there are; none where the library does as well.
pub(super) fn best() -> Option<Hash> {
    #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
    fn avx512(block: &[u8], seed: u64, far: bool) -> u128 {
        long(block, seed, far)
    }
    #[target_feature(enable = "avx2")]
    fn avx2(block: &[u8], seed: u64, far: bool) -> u128 {
        long(block, seed, far)
    }
    let has_avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    if has_avx512 {
        // SAFETY: the processor has just been asked for exactly these features.
        Some(|block, seed, far| unsafe { avx512(block, seed, far) })
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        Some(|block, seed, far| unsafe { avx2(block, seed, far) })
    } else {
        None
    }
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[inline(always)]
fn words(stripe: &Stripe) -> State {
    std::array::from_fn(|lane| word(stripe, 8 * lane))
}

/// The stripe that begins at byte `at`.
#[inline(always)]
fn stripe(bytes: &[u8], at: usize) -> Stripe {
    let mut stripe = [0; STRIPE];
    stripe.copy_from_slice(&bytes[at..at + STRIPE]);
    stripe
}

/// The secret of a seed: words of the default one plus and minus the seed, in turn.
#[inline(always)]
fn secret_of(seed: u64) -> [u8; SECRET] {
    let mut secret = DEFAULT_SECRET;
    let (pairs, _) = secret.as_chunks_mut::<16>();
    for pair in pairs {
        let (plus, minus) = (word(pair, 0).wrapping_add(seed), word(pair, 8).wrapping_sub(seed));
        pair[..8].copy_from_slice(&plus.to_le_bytes());
        pair[8..].copy_from_slice(&minus.to_le_bytes());
    }
    secret
}

#[inline(always)]
fn mix_in(state: &mut State, data: &Stripe, secret: &Stripe) {
    let (data, key) = (words(data), words(secret));
    for lane in 0..LANES {
        let keyed = data[lane] ^ key[lane];
        let product = (keyed & 0xFFFF_FFFF).wrapping_mul(keyed >> 32);
        state[lane] = state[lane].wrapping_add(data[lane ^ 1]).wrapping_add(product);
    }
}

#[inline(always)]
fn scramble(state: &mut State, secret: &Stripe) {
    let key = words(secret);
    for lane in 0..LANES {
        state[lane] = (state[lane] ^ (state[lane] >> 47) ^ key[lane]).wrapping_mul(PRIME32_1);
    }
}

#[inline(always)]
fn merge(state: &State, secret: &Stripe, start: u64) -> u64 {
    let key = words(secret);
    let mut sum = start;
    for lane in (0..LANES).step_by(2) {
        let product =
            u128::from(state[lane] ^ key[lane]).wrapping_mul(u128::from(state[lane + 1] ^ key[lane + 1]));
        sum = sum.wrapping_add(product as u64 ^ (product >> 64) as u64);
    }
    sum = (sum ^ (sum >> 37)).wrapping_mul(PRIME_MX1);
    sum ^ (sum >> 32)
}

/// Tells the processor that what lies ahead of this will be read soon.
#[inline(always)]
fn announce(data: &Stripe) {
    // SAFETY: a hint reads nothing and takes any address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(AHEAD).cast()) };
}

/// The hash of a block of more than [`SHORT`] bytes.
#[inline(always)]
fn long(block: &[u8], seed: u64, far: bool) -> u128 {
    let (secret, len) = (secret_of(seed), block.len());
    let mut state: State = [
        PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1,
    ];
    // The last stripe is mixed in by itself, counted from the end.
    let (stripes, _) = block[..len - 1].as_chunks::<STRIPE>();
    for run in stripes.chunks(STRIPES) {
        for (n, data) in run.iter().enumerate() {
            if far {
                announce(data);
            }
            mix_in(&mut state, data, &stripe(&secret, n * STEP));
        }
        if run.len() == STRIPES {
            scramble(&mut state, &stripe(&secret, SECRET - STRIPE));
        }
    }
    let last = stripe(block, len - STRIPE);
    mix_in(&mut state, &last, &stripe(&secret, SECRET - STRIPE - 7));
    let length = len as u64;
    let low = merge(&state, &stripe(&secret, 11), length.wrapping_mul(PRIME64_1));
    let high = merge(
        &state,
        &stripe(&secret, SECRET - STRIPE - 11),
        !length.wrapping_mul(PRIME64_2),
    );
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(test)]
mod tests {
    use super::super::{SHORT, tests::each_case};
    use super::*;

    #[test]
    fn loops_hash_as_the_library_whatever_they_are_compiled_for() {
        each_case(|bytes, seed, want, case| {
            if bytes.len() > SHORT {
                assert_eq!(long(bytes, seed, false), want, "{case}, plain code");
                if let Some(hash) = best() {
                    assert_eq!(hash(bytes, seed, false), want, "{case}");
                }
            }
        });
    }
}
