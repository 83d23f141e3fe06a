//! CUDA: the kernels, their compiler, and what of CUDA a machine has.
//!
//! Nothing of CUDA is needed to build this crate, nor to start it: libraries are looked for at run time, and one that is absent is an answer,
//! not an error. There is no [`crate::Device`] on CUDA yet: nothing here launches a kernel.

pub mod kernels;
pub mod library;
pub mod nvrtc;
mod raw;
pub mod survey;
