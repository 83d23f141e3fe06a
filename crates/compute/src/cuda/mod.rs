//! CUDA: the device, the kernels, their compiler, and what of CUDA a machine has.
//!
//! Nothing of CUDA is needed to build this crate, nor to start it: libraries are looked for at run time, and one that
//! is absent is an answer, not a crash. Start reading at [`Cuda`].

mod arena;
mod blas;
mod cache;
mod device;
mod driver;
mod fault;
pub mod kernels;
pub mod library;
pub mod nccl;
pub mod nvrtc;
mod raw;
pub mod survey;

use crate::sizes::Sizes;

pub use cache::FOLDER_VARIABLE as KERNEL_CACHE_VARIABLE;
pub use device::{Cuda, CudaBuffer, CudaFrozen, CudaIndices, CudaSums};

/// See [`crate::sizes`].
pub(crate) const SIZES: Sizes = Sizes {
    alignment: arena::ALIGNMENT,
    // As many as keep all multiprocessors busy with a product of a few thousand rows.
    logits_at_once: 1 << 28,
    norm_rows: kernels::NORM_ROWS,
    attention_tile: 0,
    vector: 0,
    workspace: blas::WORKSPACE,
    space_step: device::SPACE_STEP,
};

/// What activations and products are computed in. Weights' masters, moments, sums and norms are single precision in
/// either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Single precision.
    F32,
    /// bfloat16: products of rounded operands, with sums in single precision.
    Bf16,
}
