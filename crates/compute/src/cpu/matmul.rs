//! Matrix products through the `gemm` crate. Its results are the same for any number of threads (measured, and held by `conformance`).

use std::any::TypeId;

use gemm::Parallelism;

use super::pool::Pool;
use crate::{Float, Product};

/// `c` has `m*n`, `a` `m*k` and `b` `k*n` elements (checked by the caller).
pub fn product<F: Float>(pool: &Pool, shape: Product, c: &mut [F], a: &[F], b: &[F]) {
    debug_assert!(TypeId::of::<F>() == TypeId::of::<f32>() || TypeId::of::<F>() == TypeId::of::<f64>());
    let Product { m, n, k, .. } = shape;
    let (a_cs, a_rs) = if shape.transpose_a {
        (m as isize, 1)
    } else {
        (1, k as isize)
    };
    let (b_cs, b_rs) = if shape.transpose_b {
        (k as isize, 1)
    } else {
        (1, n as isize)
    };
    let (alpha, threads) = (F::ONE, pool.threads());
    let parallelism = if threads == 1 {
        Parallelism::None
    } else {
        Parallelism::Rayon(threads)
    };
    // Pointers aren't `Send`; slices are.
    pool.within(|| {
        // SAFETY: the strides stay inside slices of the checked lengths; `F` is f32 or f64, which gemm supports; C doesn't overlap
        // A or B as it is borrowed mutably.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c.as_mut_ptr(),
                1,
                n as isize,
                shape.accumulate,
                a.as_ptr(),
                a_cs,
                a_rs,
                b.as_ptr(),
                b_cs,
                b_rs,
                alpha,
                F::ONE,
                false,
                false,
                false,
                parallelism,
            );
        }
    });
}
