//! Where the coordinator's journal is kept.
//!
//! ```text
//!   Persist effects --append (one transaction)--> Store --durable--> Persisted event
//!                                                   \---load------> Coordinator::restore
//! ```
//!
//! In: records with their numbers. Out: the same records, in order, after any crash that followed the `append`.
//!
//! Invariants
//! - ST-1 When `append` has returned, its records survive a crash of process and machine; when it fails, none of them
//!   is kept.
//! - ST-2 Numbers rise by one from 1; anything else is refused.
//! - ST-3 A journal is open in one process at a time.
//! - ST-4 What is read is what was written: every record carries a checksum and its format's version.
//!
//! [`conformance::check`] holds an implementation to this. Deliberately absent: what records mean.

pub mod conformance;
mod encode;
mod error;
mod journal;
mod memory;

pub use error::StoreError;
pub use journal::Journal;
pub use memory::MemoryStore;

use rekindle_coordinator_core::{Record, Seq};

/// Keeps a journal.
pub trait Store {
    /// Makes records durable, all or none, before it returns.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was kept, except that after [`StoreError::Io`] the store must be opened anew to know.
    fn append(&mut self, records: &[(Seq, Record)]) -> Result<(), StoreError>;

    /// Every record, in order.
    ///
    /// # Errors
    /// [`StoreError`] naming what can't be read.
    fn load(&self) -> Result<Vec<(Seq, Record)>, StoreError>;
}

/// Checks that the numbers of `records` continue after `last`.
pub(crate) fn check_order(last: Seq, records: &[(Seq, Record)]) -> Result<(), StoreError> {
    let mut wanted = last;
    for (found, _) in records {
        wanted = wanted.next();
        if *found != wanted {
            return Err(StoreError::OutOfOrder {
                wanted,
                found: *found,
            });
        }
    }
    Ok(())
}
