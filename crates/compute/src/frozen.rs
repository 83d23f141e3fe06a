//! State that stays as it is while it is saved and training goes on.
//!
//! ```text
//!   freeze(buffer, range) -> handle        at once, no copy; the holder reads `bytes()` from any thread, as often as it likes
//!   forward, backward                      read the buffer
//!   thaw([weights, moments])               in place if no handle is left, else into spares, else waits for the handles
//!   adamw(target, source)                  source: the frozen buffers that thaw handed back
//! ```
//!
//! On a CPU a handle shares the buffer's memory. A device with memory of its own (CUDA) implements the same contract
//! with copies:
//! - `reserve_spares` allocates pinned host memory once.
//! - `freeze` records an event on the compute stream and lets a copy stream wait for it, so that the copy begins
//!   after the last update's kernel; the copy into pinned memory runs beside the next forward and backward. A copy
//!   that finds no pinned memory free doesn't begin yet. `bytes` waits for the event that ends the copy; of one that
//!   hasn't begun it makes a copy in plain memory.
//! - `thaw` begins the copies that haven't begun, waiting for pinned memory where there is none free, and returns
//!   None; a write makes the compute stream wait for the ends of copies first.
//!
//! So "frozen" may end before the handle is dropped; what a handle's bytes are never changes.
//!
//! Deliberately absent: what is saved, and where to.

use crate::Result;

/// What a part of a buffer held at one moment. Dropping it lets the buffer be written in place again.
pub trait Frozen: Send + Sync + 'static {
    /// The elements' bytes in native order, the same at every call. Waits until they are on the host.
    ///
    /// # Errors
    /// [`crate::ComputeError::Device`] when they couldn't be brought there.
    fn bytes(&self) -> Result<&[u8]>;
}
