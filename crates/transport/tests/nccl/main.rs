//! The NCCL transport over a simulated NCCL: it conforms, and whatever hangs, dies or fails ends within bounds and by
//! name.
#![allow(clippy::unwrap_used, clippy::panic)]

mod conformance;
mod faults;
mod groups;
mod kept;
mod simulated;
mod storms;
