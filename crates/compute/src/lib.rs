//! The arithmetic of training: a device trait, and the CPU behind it.
//!
//! In: flat buffers and shapes. Out: flat buffers. Who calls: `rekindle-model`, which knows layers; this crate knows operations.
//!
//! Invariants
//! - CP-1 The result of an operation is a function of its inputs and shapes. Number of threads and vector width don't enter: sums
//!   run over 16 fixed lanes, over fixed row blocks combined in order, or as one chain in ascending order.
//! - CP-2 An operation that returns an error has named the operand at fault; what its outputs hold is then unspecified.
//! - CP-3 Fixed-point sums never wrap: a value out of range, an infinity or a NaN becomes [`POISON`], which stays.
//!
//! Deliberately absent: knowledge of models, of files and of other ranks.
//!
//! Start reading at [`Device`], then [`Cpu`].

pub mod conformance;
mod cpu;
mod device;
mod error;
mod float;

#[doc(hidden)]
pub use cpu::Tile;
pub use cpu::{Aligned, Cpu, CpuSums, Spent, Work};
pub use device::{
    AdamStep, AdamTarget, AttentionShape, Device, POISON, Product, Residual, SumKind, View, ViewMut, part,
    part_mut, whole, whole_mut,
};
pub use error::ComputeError;
pub use float::Float;

/// What operations return.
pub type Result<T> = std::result::Result<T, ComputeError>;
