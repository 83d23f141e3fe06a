//! State that outlives the process that computes it: a trainer's weights and moments lie in shared memory, and a
//! table in front of them says which pieces make up the state of which step.
//!
//! ```text
//!   trainer: Arena::create(file) -> take(bytes) ... its state and as many spare buffers
//!            update of step s+1 writes the spares, reading the state of s      both are there; s is valid
//!            publish(s+1)                                                       s and s+1 are valid
//!            retire(s), then the update of s+2 may write over it
//!   a successor, after a crash at any moment: Snapshot::open(file) -> the steps that are valid, and their bytes
//! ```
//!
//! The file lies in a folder of the worker (on a memory file system), which outlives its trainers. Nothing is copied
//! while training goes on: the update writes elsewhere instead.
//!
//! Invariants
//! - VA-1 A step that a snapshot lists has all its bytes: it was published after the last of them was written, and
//!   retired before the first of them was written over.
//! - VA-2 Of the ranks of a gang, the oldest of their newest steps is valid at every one of them: a rank retires step
//!   s only when all ranks have passed the commit of s+2, which needs every rank to have published s+1.
//! - VA-3 A file that is torn, foreign or of another layout offers nothing; it is never an error to find one.
//! - VA-4 A file whose writer still lives offers nothing.
//!
//! What a group of ranks keeps of each other's states is in [`parity`].
//!
//! Deliberately absent: a machine that dies (its memory is gone), and who decides which step a gang goes on from.

mod arena;
mod error;
mod identity;
pub mod parity;
mod snapshot;
mod table;

pub use arena::Arena;
pub use error::{Unusable, VaultError};
pub use identity::{Identity, What};
pub use snapshot::Snapshot;
pub use table::Entry;
