//! The arithmetic of training: a device trait, with the CPU or a CUDA device behind it.
//!
//! In: flat buffers and shapes. Out: flat buffers. Who calls: `rekindle-model`, which knows layers; this crate knows
//! operations.
//!
//! Invariants
//! - CP-1 The result of an operation is a function of its inputs and shapes. Number of threads and vector width don't
//!   enter: sums run over 16 fixed lanes, over fixed row blocks combined in order, or as one chain in ascending
//!   order.
//! - CP-2 An operation that returns an error has named the operand at fault; what its outputs hold is then unspecified.
//! - CP-3 Fixed-point sums never wrap: a value out of range, an infinity or a NaN becomes [`POISON`], which stays.
//! - CP-4 What a [`Frozen`] handle gives never changes. On a CPU, memory that a handle shares is written by nobody:
//!   every write asks for the only reference to it.
//!
//! Deliberately absent: knowledge of models, of files and of other ranks.
//!
//! Start reading at [`Device`], then [`Cpu`]; [`AnyDevice`] is either, chosen at run time.

mod adam;
mod any;
pub mod conformance;
mod cpu;
pub mod cuda;
mod device;
mod error;
mod float;
mod frozen;
mod operands;
pub mod sizes;
mod tally;
mod with_floats;

pub use adam::{AdamPart, AdamSource, AdamStep, AdamTarget, BlockHash, Hashing};
pub use any::{AnyBuffer, AnyDevice, AnyFrozen, AnyIndices, AnySums};
#[doc(hidden)]
pub use cpu::Tile;
pub use cpu::{Aligned, Cpu, CpuBuffer, CpuFrozen, CpuSums, Spent, StateMemory, Work};
pub use device::{
    AttentionShape, Device, ElementBytes, POISON, Product, Residual, SumKind, View, ViewMut, part, part_mut,
    whole, whole_mut,
};
pub use error::ComputeError;
pub use float::Float;
pub use frozen::Frozen;
pub use tally::HandedOut;

/// What operations return.
pub type Result<T> = std::result::Result<T, ComputeError>;
