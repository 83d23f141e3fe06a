//! A stage of a LLaMA-family model: forward, backward, update, and its state as ranges of flat buffers.
//!
//! In: token ids or activations of micro-batches, gradients of other lanes, the step's learning rate and clip factor.
//! Out: activations, losses, gradient sums, weights, digests. Who calls: the trainer, in the order its schedule says.
//!
//! Invariants
//! - MO-1 A micro-batch's loss and gradient are functions of (weights, tokens) and its shape; the cut into stages,
//!   the lane and the number of threads don't enter (design, exactness contract 3).
//! - MO-2 In exact mode everything that is added over micro-batches, lanes or ranks is an integer: gradients, losses,
//!   squares, digests.
//! - MO-3 The loss that is differentiated is the sum over tokens; the division by the step's planned tokens happens
//!   once, at the end.
//! - MO-4 An update gives the same bits in place and out of place. What it leaves undefined of a layer (the other
//!   lanes' weights) can't be read before it is set.
//! - MO-5 What a pass computes anew (`Recompute::Block`) has the bits that it would have kept.
//! - MO-6 A shadow that was fed every gradient of a rank since it had that rank's state has its state, bit for bit.
//!
//! Deliberately absent: communication, schedules, files, data.
//!
//! Start reading at [`Stage`].

pub mod engine;
mod exact_sum;
pub mod generate;
mod init;
mod philox;

pub use engine::{
    AdamW, EngineError, FrozenPart, GradientSummary, GradientSums, LayerStep, MemoryReport, Result, Shadow,
    Stage, StageInput, StageOutput, StageSpec,
};
pub use exact_sum::ExactSum;
pub use philox::Philox;
pub use rekindle_types::{StateDigest, StateKind};
