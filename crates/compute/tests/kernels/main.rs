//! The CUDA kernels without a GPU: their arithmetic on an emulated GPU against the CPU device, and every source
//! through the compiler that a GPU's machine would use.
#![allow(clippy::unwrap_used, clippy::panic)]

#[macro_use]
mod emulator;
mod attention;
mod loss;
mod plain;
mod planted;
mod rows;
mod sums;
mod values;
