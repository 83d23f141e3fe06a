//! What can go wrong inside an operation.

use std::time::Duration;

/// Why an operation was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    /// Operands don't fit together.
    #[error("{op}: {what} has {have} elements, the shape needs {want}; check the caller's shapes")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The operand at fault.
        what: &'static str,
        /// Elements it has.
        have: usize,
        /// Elements it must have.
        want: usize,
    },
    /// A range that lies outside its buffer.
    #[error("{op}: elements {start}..{end} lie outside a buffer of {len}")]
    Range {
        /// The operation.
        op: &'static str,
        /// First element asked for.
        start: usize,
        /// One past the last element asked for.
        end: usize,
        /// Elements there are.
        len: usize,
    },
    /// An index beyond the table it selects from.
    #[error(
        "{op}: index {index} at position {at} is outside the table of {len} rows; was the data made for another vocabulary?"
    )]
    Index {
        /// The operation.
        op: &'static str,
        /// Position of the index.
        at: usize,
        /// The index.
        index: u32,
        /// Rows of the table.
        len: usize,
    },
    /// A write to a buffer that a checkpoint still reads.
    #[error(
        "{op}: the buffer is frozen for a checkpoint that isn't written yet; thaw it first, or drop the checkpoint"
    )]
    Frozen {
        /// The operation.
        op: &'static str,
    },
    /// A wait for a frozen buffer that took too long.
    #[error(
        "a buffer of {elements} elements was still frozen for a checkpoint after {waited:?}: its storage is slow or stuck; \
         drop that checkpoint and try again, or give checkpoints a larger pool"
    )]
    StillFrozen {
        /// Length of the buffer.
        elements: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// What this process had on the device is gone; another process may use the device.
    #[error("{what}")]
    Lost {
        /// What failed.
        what: String,
    },
    /// The device itself can't be relied on: what fails here may work on another one.
    #[error("{what}")]
    Faulty {
        /// What failed and where to look.
        what: String,
    },
    /// The device has no more memory.
    #[error("{what}")]
    OutOfMemory {
        /// What was asked for, and what there is.
        what: String,
    },
    /// The device can't be used as asked.
    #[error("{what}")]
    Device {
        /// What failed and what to do.
        what: String,
    },
}
