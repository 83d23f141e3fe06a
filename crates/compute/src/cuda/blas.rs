//! Matrix products by cuBLASLt: one algorithm for each shape, so that results repeat.
//!
//! In: addresses of row-major matrices on the device. Out: work given to a stream. cuBLASLt counts columns first, so
//! it is asked for the transposed product, whose operands change places.
//!
//! Invariants
//! - CP-7 An algorithm is chosen once for each shape, types and alignment, from those that add up in a fixed order:
//!   split sums that race for their place are ruled out.
//!
//! Deliberately absent: trying algorithms out, whose times would decide on bits. Calls of cuBLASLt are in this file
//! alone.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;

use super::Precision;
use super::driver::{Context, Memory, Stream};
use super::fault::of_cublas;
use super::library::{Kind, find};
use crate::{ComputeError, Product, Result};

/// Memory for sums of products that are split: what cuBLAS takes by itself on such devices.
pub const WORKSPACE: usize = 32 << 20;
/// Sums may be split and added up in single precision. The scheme "in place" (1) is left out: it adds in no fixed
/// order.
const REDUCTIONS: u32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;

fn failed(call: &str, error: CublasError) -> ComputeError {
    let what = format!("cuBLASLt: {call} gave {:?}", error.0);
    of_cublas(error.0 as u32).error(what)
}

trait Named<T> {
    fn named(self, call: &str) -> Result<T>;
}

impl<T> Named<T> for std::result::Result<T, CublasError> {
    fn named(self, call: &str) -> Result<T> {
        self.map_err(|error| failed(call, error))
    }
}

/// A matrix: its address and its elements' type.
#[derive(Clone, Copy)]
pub struct Matrix {
    /// Address on the device.
    pub at: u64,
    /// Type of the elements.
    pub element: Precision,
}

impl Matrix {
    /// The largest power of two up to 256 that divides the address.
    fn alignment(self) -> u32 {
        1 << self.at.trailing_zeros().min(8)
    }

    fn kind(self) -> sys::cudaDataType {
        match self.element {
            Precision::F32 => sys::cudaDataType::CUDA_R_32F,
            Precision::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        }
    }
}

#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct Key {
    product: Product,
    kinds: [Precision; 3],
    alignments: [u32; 3],
}

/// A product as cuBLASLt wants it described.
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    /// Of what cuBLASLt calls A, B and C.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: descriptions are read only, after they were made.
unsafe impl Send for Plan {}

/// The library, with plans for the products seen so far.
pub struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: Memory,
    plans: Mutex<HashMap<Key, Plan>>,
}

// SAFETY: a handle may be used from any thread.
unsafe impl Send for Blas {}
// SAFETY: as above; plans are behind a lock.
unsafe impl Sync for Blas {}

impl Blas {
    /// Starts the library on a device.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when it isn't there or doesn't start.
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        // cudarc panics where the library is absent.
        // SAFETY: looks for the library that was just found, or for the same names once more.
        if find(Kind::CublasLt).is_none() || !unsafe { sys::is_culib_present() } {
            let what = format!("cuBLASLt isn't there: {}", Kind::CublasLt.remedy());
            return Err(ComputeError::Device { what });
        }
        // Makes the context current, too.
        let workspace = Memory::new(context, WORKSPACE)?;
        Ok(Self {
            handle: result::create_handle().named("cublasLtCreate")?,
            workspace,
            plans: Mutex::default(),
        })
    }

    /// `c = op(a) op(b)`, or `c += op(a) op(b)`, see [`Product`]. The caller owns the matrices, which are as large as
    /// the shape says.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn product(&self, stream: &Stream, shape: Product, c: Matrix, a: Matrix, b: Matrix) -> Result<()> {
        if shape.m == 0 || shape.n == 0 || shape.k == 0 {
            return Ok(());
        }
        stream.bind()?;
        let key = Key {
            product: shape,
            kinds: [c.element, a.element, b.element],
            alignments: [c.alignment(), a.alignment(), b.alignment()],
        };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(plan) => plan.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => place.insert(self.plan(shape, c, a, b)?),
        };
        let (one, beta) = (1.0f32, if shape.accumulate { 1.0f32 } else { 0.0 });
        let address = |m: Matrix| m.at as *const c_void;
        stream.named("product", || {
            // SAFETY: the caller's matrices; the plan was made for them and lives; the workspace is used by one
            // product after the other, as the stream runs them.
            unsafe {
                result::matmul(
                    self.handle,
                    plan.description,
                    std::ptr::from_ref(&one).cast(),
                    std::ptr::from_ref(&beta).cast(),
                    address(b),
                    plan.layouts[0],
                    address(a),
                    plan.layouts[1],
                    address(c),
                    plan.layouts[2],
                    address(c).cast_mut(),
                    plan.layouts[2],
                    &raw const plan.algorithm,
                    self.workspace.at() as *mut c_void,
                    self.workspace.bytes(),
                    stream.raw().cast(),
                )
            }
            .named(&format!("cublasLtMatmul of {shape:?}"))
        })
    }

    fn plan(&self, shape: Product, c: Matrix, a: Matrix, b: Matrix) -> Result<Plan> {
        let Product { m, n, k, .. } = shape;
        let layout = |matrix: Matrix, rows: usize, columns: usize| {
            result::create_matrix_layout(matrix.kind(), rows as u64, columns as u64, rows as i64)
                .named("cublasLtMatrixLayoutCreate")
        };
        // A row-major matrix is the transposed one with columns first.
        let layouts = [
            if shape.transpose_b {
                layout(b, k, n)?
            } else {
                layout(b, n, k)?
            },
            if shape.transpose_a {
                layout(a, m, k)?
            } else {
                layout(a, k, m)?
            },
            layout(c, n, m)?,
        ];
        let description = result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType::CUDA_R_32F,
        )
        .named("cublasLtMatmulDescCreate")?;
        for (attribute, transposed) in [
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                shape.transpose_b,
            ),
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB,
                shape.transpose_a,
            ),
        ] {
            let operation = i32::from(transposed);
            // SAFETY: the attribute is an i32 (CUBLAS_OP_N is 0, CUBLAS_OP_T is 1), which is copied.
            unsafe {
                result::set_matmul_desc_attribute(
                    description,
                    attribute,
                    std::ptr::from_ref(&operation).cast(),
                    size_of::<i32>(),
                )
            }
            .named("cublasLtMatmulDescSetAttribute")?;
        }
        let algorithm = self.choose(
            description,
            &layouts,
            [b.alignment(), a.alignment(), c.alignment()],
            shape,
        )?;
        Ok(Plan {
            description,
            layouts,
            algorithm,
        })
    }

    /// The library's first choice within [`REDUCTIONS`] and the workspace.
    fn choose(
        &self,
        description: sys::cublasLtMatmulDesc_t,
        [a, b, c]: &[sys::cublasLtMatrixLayout_t; 3],
        alignments: [u32; 3],
        shape: Product,
    ) -> Result<sys::cublasLtMatmulAlgo_t> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let wish = result::create_matmul_pref().named("cublasLtMatmulPreferenceCreate")?;
        let set = |which, value: *const c_void, bytes| {
            // SAFETY: the preference lives; the value has the attribute's size and is copied.
            unsafe { result::set_matmul_pref_attribute(wish, which, value, bytes) }
                .named("cublasLtMatmulPreferenceSetAttribute")
        };
        let workspace = self.workspace.bytes();
        let number = |which, value: u32| set(which, std::ptr::from_ref(&value).cast(), size_of::<u32>());
        let chosen = set(
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            std::ptr::from_ref(&workspace).cast(),
            size_of::<usize>(),
        )
        .and_then(|()| number(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, REDUCTIONS))
        .and_then(|()| {
            number(
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                alignments[0],
            )
        })
        .and_then(|()| {
            number(
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                alignments[1],
            )
        })
        .and_then(|()| {
            number(
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                alignments[2],
            )
        })
        .and_then(|()| {
            number(
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                alignments[2],
            )
        })
        .and_then(|()| {
            // SAFETY: all of them live.
            unsafe { result::get_matmul_algo_heuristic(self.handle, description, *a, *b, *c, *c, wish) }
                .named(&format!("cublasLtMatmulAlgoGetHeuristic for {shape:?}"))
        });
        // SAFETY: made above, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(wish) };
        Ok(chosen?.algo)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let plans = std::mem::take(self.plans.get_mut().unwrap_or_else(PoisonError::into_inner));
        for plan in plans.into_values() {
            for layout in plan.layouts {
                // SAFETY: made in `plan`, destroyed once.
                let _ = unsafe { result::destroy_matrix_layout(layout) };
            }
            // SAFETY: as above.
            let _ = unsafe { result::destroy_matmul_desc(plan.description) };
        }
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
