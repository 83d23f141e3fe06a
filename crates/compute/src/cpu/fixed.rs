//! Adding floats to fixed-point sums: portable, and with AVX-512 instructions that give the same bits.

use crate::{Float, POISON};

/// Sum that stays [`POISON`] once it was, or when it overflows.
#[inline(always)]
pub fn add(a: i64, b: i64) -> i64 {
    let sum = a.wrapping_add(b);
    let overflow = ((a ^ sum) & (b ^ sum)) < 0;
    if overflow || a == POISON || b == POISON {
        POISON
    } else {
        sum
    }
}

/// `values += round(gradient * scale)`, equally long; `scale` is a power of two.
pub fn add_floats<F: Float>(values: &mut [i64], gradient: &[F], scale: F) {
    #[cfg(target_arch = "x86_64")]
    if let (Ok(gradient), true) = (bytemuck::try_cast_slice::<F, f32>(gradient), avx512::available())
        && F::BYTES == 4
    {
        // SAFETY: the processor has the instructions.
        unsafe { avx512::add_floats(values, gradient, scale.f32()) };
        return;
    }
    add_floats_portable(values, gradient, scale);
}

/// The definition.
pub fn add_floats_portable<F: Float>(values: &mut [i64], gradient: &[F], scale: F) {
    for (value, &g) in values.iter_mut().zip(gradient) {
        *value = add(*value, g.fixed(scale));
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;
    use std::sync::OnceLock;

    use super::add;
    use crate::Float;

    pub fn available() -> bool {
        static HAS: OnceLock<bool> = OnceLock::new();
        *HAS.get_or_init(|| is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq"))
    }

    /// `vcvtps2qq` rounds ties to even and gives `i64::MIN`, which is POISON, for whatever doesn't fit.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub fn add_floats(values: &mut [i64], gradient: &[f32], scale: f32) {
        let (heads, tail) = values.as_chunks_mut::<8>();
        let (sources, rest) = gradient.as_chunks::<8>();
        let factor = _mm256_set1_ps(scale);
        let poison = _mm512_set1_epi64(i64::MIN);
        for (value, source) in heads.iter_mut().zip(sources) {
            // SAFETY: both arrays have 8 elements; unaligned loads and stores.
            unsafe {
                let a = _mm512_loadu_si512(value.as_ptr().cast());
                let g = _mm256_mul_ps(_mm256_loadu_ps(source.as_ptr()), factor);
                let b = _mm512_cvtps_epi64(g);
                let sum = _mm512_add_epi64(a, b);
                let wrapped = _mm512_and_si512(_mm512_xor_si512(a, sum), _mm512_xor_si512(b, sum));
                let bad = _mm512_movepi64_mask(wrapped)
                    | _mm512_cmpeq_epi64_mask(a, poison)
                    | _mm512_cmpeq_epi64_mask(b, poison);
                let sum = _mm512_mask_mov_epi64(sum, bad, poison);
                _mm512_storeu_si512(value.as_mut_ptr().cast(), sum);
            }
        }
        for (value, &g) in tail.iter_mut().zip(rest) {
            *value = add(*value, g.fixed(scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_stays_and_overflow_poisons() {
        assert_eq!(add(1, -3), -2);
        assert_eq!(add(i64::MAX, 1), POISON);
        assert_eq!(add(-i64::MAX, -2), POISON);
        assert_eq!(add(POISON, 5), POISON);
        assert_eq!(add(5, POISON), POISON);
        // A sum that lands on the mark itself counts as out of range.
        assert_eq!(add(-i64::MAX, -1), POISON);
    }

    #[test]
    fn vector_and_portable_versions_agree_bit_for_bit() {
        let special = [
            f32::NAN,
            f32::INFINITY,
            -f32::INFINITY,
            0.5,
            -0.5,
            1.5,
            1e30,
            -1e30,
            2.5,
            1e-40,
            9.2e18,
            -0.0,
            3e-9,
        ];
        let mut state = 1u64;
        let gradient: Vec<f32> = (0..1003)
            .map(|i| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if i % 7 == 0 {
                    special[i / 7 % special.len()]
                } else {
                    f32::from_bits((state >> 32) as u32)
                }
            })
            .collect();
        for shift in [0, 30, 43] {
            let scale = (1u64 << shift) as f32;
            let start: Vec<i64> = (0..1003)
                .map(|i| [0, i64::MAX - 3, -i64::MAX, POISON, 77][i % 5])
                .collect();
            let (mut fast, mut plain) = (start.clone(), start);
            add_floats(&mut fast, &gradient, scale);
            add_floats_portable(&mut plain, &gradient, scale);
            assert_eq!(fast, plain);
        }
    }
}
