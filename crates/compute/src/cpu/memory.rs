//! Memory that somebody else provides for state, so that it outlives this process (shared memory, for instance).

use std::fmt::Debug;
use std::ptr::NonNull;

/// A provider of memory. It only gives; what it gave is never given back.
///
/// # Safety
/// What [`StateMemory::take`] returns is zeroed, starts at a multiple of 4096, has at least the bytes asked for,
/// overlaps nothing that was given before, is written by nobody else, and stays valid as long as the provider lives.
pub unsafe trait StateMemory: Send + Sync + Debug {
    /// Memory of `bytes`; none when there is no more.
    fn take(&self, bytes: usize) -> Option<NonNull<u8>>;
}
