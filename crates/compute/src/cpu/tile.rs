//! Small matrix products for attention: `C[m,n] = A B (+ C)` on scratch that is padded to whole vectors.
//!
//! CP-4 Every element of C is one chain of fused multiply-adds over k in ascending order, so tile sizes and vector
//! widths don't show.

use pulp::{Simd, WithSimd};

use super::lanes::arch;

/// Columns come in multiples of this.
pub const WIDTH: usize = 16;
/// Rows come in multiples of this.
pub const HEIGHT: usize = 8;

/// A product `c[i*ldc + j] (+)= sum over k of a[i*row + k*column] * b[k*ldb + j]` for i in 0..m (multiple of
/// `HEIGHT`), j in 0..n (multiple of `WIDTH`).
pub struct Tile<'a, F> {
    /// m, n, k
    pub size: (usize, usize, usize),
    /// A with its strides over rows and over k.
    pub a: (&'a [F], usize, usize),
    /// B and its stride over k.
    pub b: (&'a [F], usize),
    /// C and its stride over rows.
    pub c: (&'a mut [F], usize),
    /// Whether to add to C.
    pub accumulate: bool,
}

impl<F> Tile<'_, F> {
    /// The last element of each operand must exist; panics otherwise, which only a wrong caller in this crate can
    /// cause.
    fn assert_inside(&self) {
        let (m, n, k) = self.size;
        assert!(m % HEIGHT == 0 && n % WIDTH == 0, "tiles come padded");
        if m == 0 || n == 0 {
            return;
        }
        assert!(self.c.0.len() >= (m - 1) * self.c.1 + n, "C is too short");
        if k > 0 {
            assert!(self.b.0.len() >= (k - 1) * self.b.1 + n, "B is too short");
            assert!(
                self.a.0.len() > (m - 1) * self.a.1 + (k - 1) * self.a.2,
                "A is too short"
            );
        }
    }
}

macro_rules! tile {
    ($name:ident, $float:ty, $vector:ident, $splat:ident, $mul_add:ident) => {
        /// The product of a tile.
        pub fn $name(tile: Tile<'_, $float>) {
            tile.assert_inside();
            arch().dispatch(tile);
        }

        impl WithSimd for Tile<'_, $float> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(mut self, simd: S) {
                let lanes = size_of::<S::$vector>() / size_of::<$float>();
                let (m, n, _) = self.size;
                // 32 registers with 16 lanes take 8 rows of 2 vectors, 16 registers take 4 rows of 2.
                let tall = size_of::<S::$vector>() == 64;
                let mut j = 0;
                while j < n {
                    let wide = n - j >= 2 * lanes;
                    let mut i = 0;
                    while i < m {
                        // SAFETY: `assert_inside` was called; i and j step inside m and n, which are multiples of the
                        // steps.
                        unsafe {
                            match (tall, wide) {
                                (true, true) => self.block::<S, 8, 2>(simd, i, j),
                                (true, false) => self.block::<S, 8, 1>(simd, i, j),
                                (false, true) => self.block::<S, 4, 2>(simd, i, j),
                                (false, false) => self.block::<S, 4, 1>(simd, i, j),
                            }
                        }
                        i += if tall { 8 } else { 4 };
                    }
                    j += if wide { 2 * lanes } else { lanes };
                }
            }
        }

        impl Tile<'_, $float> {
            /// # Safety
            /// Rows i..i+R and V vectors of columns from j lie inside the tile, whose operands are long enough.
            #[inline(always)]
            unsafe fn block<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, i: usize, j: usize) {
                let lanes = size_of::<S::$vector>() / size_of::<$float>();
                let (_, _, k) = self.size;
                let (a, row, column) = self.a;
                let (c, stride) = (self.c.0.as_mut_ptr(), self.c.1);
                let zero = simd.$splat(0.0);
                let mut sums = [[zero; V]; R];
                // SAFETY: every address is inside its operand by the contract; vectors are read and written unaligned.
                unsafe {
                    let place =
                        |r: usize, v: usize| c.add((i + r) * stride + j + v * lanes).cast::<S::$vector>();
                    if self.accumulate {
                        for r in 0..R {
                            for v in 0..V {
                                sums[r][v] = place(r, v).read_unaligned();
                            }
                        }
                    }
                    let mut left = a.as_ptr().add(i * row);
                    let mut right = self.b.0.as_ptr().add(j);
                    for depth in 0..k {
                        let mut values = [zero; V];
                        for v in 0..V {
                            values[v] = right.add(v * lanes).cast::<S::$vector>().read_unaligned();
                        }
                        for r in 0..R {
                            let x = simd.$splat(*left.add(r * row));
                            for v in 0..V {
                                sums[r][v] = simd.$mul_add(x, values[v], sums[r][v]);
                            }
                        }
                        if depth + 1 < k {
                            left = left.add(column);
                            right = right.add(self.b.1);
                        }
                    }
                    for r in 0..R {
                        for v in 0..V {
                            place(r, v).write_unaligned(sums[r][v]);
                        }
                    }
                }
            }
        }
    };
}

tile!(multiply_f32, f32, f32s, splat_f32s, mul_add_f32s);
tile!(multiply_f64, f64, f64s, splat_f64s, mul_add_f64s);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_one_chain_of_fused_multiply_adds() {
        let value = |i: usize| ((i * 7919 % 1013) as f32 - 500.0) / 311.0;
        for (m, n, k) in [(8, 16, 1), (8, 48, 5), (16, 32, 33), (24, 80, 7)] {
            let a: Vec<f32> = (0..m * k).map(value).collect();
            let b: Vec<f32> = (0..k * n).map(|i| value(i + 17)).collect();
            let start: Vec<f32> = (0..m * n).map(|i| value(i + 29)).collect();
            for accumulate in [false, true] {
                for transposed in [false, true] {
                    let (row, column) = if transposed { (1, m) } else { (k, 1) };
                    let mut c = start.clone();
                    multiply_f32(Tile {
                        size: (m, n, k),
                        a: (&a, row, column),
                        b: (&b, n),
                        c: (&mut c, n),
                        accumulate,
                    });
                    for i in 0..m {
                        for j in 0..n {
                            let first = if accumulate { start[i * n + j] } else { 0.0 };
                            let want = (0..k)
                                .fold(first, |sum, d| a[i * row + d * column].mul_add(b[d * n + j], sum));
                            assert_eq!(c[i * n + j].to_bits(), want.to_bits());
                        }
                    }
                }
            }
        }
    }
}
