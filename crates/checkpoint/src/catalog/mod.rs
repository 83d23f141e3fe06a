//! What can be done with the checkpoints of a location, besides writing and reading them: list, compare, pin, clean
//! up, convert.
//!
//! In: stores and opened checkpoints. Out: reports as values; nothing is printed.
//!
//! Invariants
//! - CK-16 Cleaning up never deletes the newest `keep_last` valid checkpoints, pinned or protected ones, what it
//!   can't read, nor what the policy's writer has begun and not given up.
//! - CK-17 A manifest is deleted before the first of its files: whatever cleaning up did before it was ended, each
//!   checkpoint is valid or invisible.
//! - CK-18 Converting holds a few layers in memory, however large the model is.
//!
//! Deliberately absent: when to clean up, and who may.

mod diff;
mod export;
mod gc;
mod import;
mod list;
mod pins;

pub use diff::{Diff, LayerDiff, ValueDiff, diff};
pub use export::export_hf;
pub use gc::{AtWork, GcReport, Kept, Policy, gc};
pub use import::{ImportOptions, import_hf};
pub use list::{Condition, Facts, Summary, list};
pub use pins::{Pin, pin, pins, unpin};
