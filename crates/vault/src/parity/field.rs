//! Arithmetic of GF(2^8), polynomial x^8 + x^4 + x^3 + x^2 + 1: bytes; a sum is XOR, a product goes by logarithms.
//!
//! What is done to much memory is `into += factor * from` ([`add_scaled`]). Factor 1 is XOR by words. Others take the
//! product of each half of a byte from a table of 16 entries, which AVX2 does for 32 bytes at once (Plank, Greenan
//! and Miller 2013); without AVX2 byte by byte.

const POLYNOMIAL: u16 = 0x11D;
/// Powers of 2, twice over, so that sums of logarithms need no reduction.
const EXP: [u8; 510] = exp();
const LOG: [u8; 256] = log();

const fn exp() -> [u8; 510] {
    let (mut table, mut power, mut n) = ([0; 510], 1_u16, 0);
    while n < 510 {
        table[n] = power as u8;
        power <<= 1;
        if power > 0xFF {
            power ^= POLYNOMIAL;
        }
        n += 1;
    }
    table
}

const fn log() -> [u8; 256] {
    let (mut table, mut n) = ([0; 256], 0);
    while n < 255 {
        table[EXP[n] as usize] = n as u8;
        n += 1;
    }
    table
}

/// The product.
pub(super) fn mul(a: u8, b: u8) -> u8 {
    match (a, b) {
        (0, _) | (_, 0) => 0,
        (a, b) => EXP[LOG[a as usize] as usize + LOG[b as usize] as usize],
    }
}

/// `a / b`; `b` isn't 0.
pub(super) fn div(a: u8, b: u8) -> u8 {
    match a {
        0 => 0,
        a => EXP[LOG[a as usize] as usize + 255 - LOG[b as usize] as usize],
    }
}

/// `into += factor * from`, byte by byte over the shorter of the two: bytes that aren't there are zeros.
pub fn add_scaled(into: &mut [u8], factor: u8, from: &[u8]) {
    match factor {
        0 => {}
        1 => into.iter_mut().zip(from).for_each(|(into, from)| *into ^= from),
        factor => Halves::of(factor).add(into, from),
    }
}

/// The products of a factor with the lower and the upper halves of bytes.
struct Halves {
    low: [u8; 16],
    high: [u8; 16],
}

impl Halves {
    fn of(factor: u8) -> Self {
        let product = |n: usize, shift: u32| mul(factor, (n as u8) << shift);
        Self {
            low: std::array::from_fn(|n| product(n, 0)),
            high: std::array::from_fn(|n| product(n, 4)),
        }
    }

    fn add(&self, into: &mut [u8], from: &[u8]) {
        let bytes = into.len().min(from.len());
        let (into, from) = (&mut into[..bytes], &from[..bytes]);
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            unsafe { self.add_avx2(into, from) };
            return;
        }
        self.add_bytes(into, from);
    }

    fn add_bytes(&self, into: &mut [u8], from: &[u8]) {
        for (into, from) in into.iter_mut().zip(from) {
            *into ^= self.low[(from & 15) as usize] ^ self.high[(from >> 4) as usize];
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn add_avx2(&self, into: &mut [u8], from: &[u8]) {
        use std::arch::x86_64::{
            __m256i, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_set1_epi8, _mm256_shuffle_epi8,
            _mm256_srli_epi16, _mm256_xor_si256,
        };
        let low = _mm256_broadcastsi128_si256(bytemuck::pod_read_unaligned(&self.low));
        let high = _mm256_broadcastsi128_si256(bytemuck::pod_read_unaligned(&self.high));
        let mask = _mm256_set1_epi8(15);
        let (mut blocks, others) = (into.chunks_exact_mut(32), from.chunks_exact(32));
        let rest = others.remainder();
        for (block, other) in blocks.by_ref().zip(others) {
            let x: __m256i = bytemuck::pod_read_unaligned(other);
            let lower = _mm256_shuffle_epi8(low, _mm256_and_si256(x, mask));
            let upper = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask));
            let product = _mm256_xor_si256(lower, upper);
            let sum = _mm256_xor_si256(bytemuck::pod_read_unaligned(block), product);
            block.copy_from_slice(bytemuck::bytes_of(&sum));
        }
        self.add_bytes(blocks.into_remainder(), rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The product by its definition: polynomials over bits, modulo the polynomial.
    fn slow(a: u8, b: u8) -> u8 {
        let (mut product, mut shifted) = (0_u16, u16::from(a));
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                product ^= shifted;
            }
            shifted <<= 1;
            if shifted > 0xFF {
                shifted ^= POLYNOMIAL;
            }
        }
        product as u8
    }

    #[test]
    fn products_are_those_of_the_definition_and_quotients_undo_them() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), slow(a, b), "{a} * {b}");
                if b > 0 {
                    assert_eq!(div(mul(a, b), b), a, "{a} * {b} / {b}");
                }
            }
        }
    }

    #[test]
    fn much_memory_is_multiplied_as_single_bytes_are() {
        let byte = |n: usize| (n.wrapping_mul(0x9E37_79B9) >> 13) as u8;
        for factor in 0..=255 {
            for bytes in [0, 1, 31, 32, 33, 300] {
                let from: Vec<u8> = (0..bytes).map(byte).collect();
                // One byte more, and from an odd place: neither lengths nor places have to fit.
                let mut into: Vec<u8> = (0..bytes + 2).map(|n| byte(n + 7)).collect();
                let mut wanted = into.clone();
                add_scaled(&mut into[1..], factor, &from);
                for (n, from) in from.iter().enumerate() {
                    wanted[n + 1] ^= slow(factor, *from);
                }
                assert_eq!(into, wanted, "{bytes} bytes times {factor}");
                let halves = Halves::of(factor);
                let (mut one, mut other) = (vec![3; bytes], vec![3; bytes]);
                halves.add(&mut one, &from);
                halves.add_bytes(&mut other, &from);
                assert_eq!(one, other, "{bytes} bytes times {factor}");
            }
        }
    }
}
