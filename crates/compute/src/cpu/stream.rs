//! Stores past the caches, for memory that is written whole and not read soon: the processor needn't fetch the line
//! first, which is a third of the traffic of an update out of place. Elsewhere than on x86-64 they are plain stores.
//! And asking for memory in time.

use super::lanes::LANES;
use crate::Float;

/// `target = lanes`. Call [`done`] on the same thread after the last one.
#[inline(always)]
pub fn store<F: Float>(target: &mut [F; LANES], lanes: &[F; LANES]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128, _mm_loadu_ps, _mm_stream_ps};
        if std::ptr::from_mut(target).cast::<__m128>().is_aligned() {
            let (from, to): (&[f32], &mut [f32]) =
                (bytemuck::cast_slice(lanes), bytemuck::cast_slice_mut(target));
            for (from, to) in from.chunks_exact(4).zip(to.chunks_exact_mut(4)) {
                // SAFETY: both are four floats long; `to` is aligned to 16 bytes, because `target` is and every piece
                // before it has 16.
                unsafe { _mm_stream_ps(to.as_mut_ptr(), _mm_loadu_ps(from.as_ptr())) };
            }
            return;
        }
    }
    *target = *lanes;
}

/// Makes the streamed stores of this thread visible like plain ones: needed before another thread is told of them.
#[inline(always)]
pub fn done() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction belongs to SSE, which every x86-64 processor has.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// How much is asked for: enough that the processor sees a stream and fetches on by itself, more only delays what is
/// needed first.
const AHEAD: usize = 64;

/// Tells the processor that elements right after `now` will be read soon.
#[inline(always)]
pub fn announce_after<T>(now: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let next = now.as_ptr_range().end.cast::<i8>();
        for byte in (0..AHEAD * size_of::<T>()).step_by(64) {
            // SAFETY: a hint reads nothing and takes any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(byte)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = now;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_alignment_is_stored() {
        let lanes: [f32; LANES] = std::array::from_fn(|i| i as f32);
        for shift in 0..6 {
            let mut memory = [-1.0_f32; LANES + 8];
            let (target, _) = memory[shift..].split_first_chunk_mut().unwrap();
            store(target, &lanes);
            done();
            assert_eq!(memory[shift..shift + LANES], lanes);
            assert!(
                memory[..shift]
                    .iter()
                    .chain(&memory[shift + LANES..])
                    .all(|v| *v == -1.0)
            );
        }
    }
}
