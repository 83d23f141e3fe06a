//! What can go wrong with a journal, with its place and what to do.

use std::path::PathBuf;

use rekindle_coordinator_core::Seq;

/// Why a journal can't be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{path} is in use by another coordinator; stop that one or choose another --state-dir")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It isn't a journal.
    #[error("{path} is not a coordinator's journal ({why}); choose another file, it was left as it is")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is odd about it.
        why: String,
    },
    /// A later version of Rekindle wrote it.
    #[error(
        "{path} has journal format {found}, this version of Rekindle reads up to {known}; use the newer version"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this code reads.
        known: u32,
    },
    /// A record can't be read.
    #[error("{place}, record {seq}: {why}; the journal is damaged, restore it from a copy")]
    Corrupt {
        /// The file, or what stands for it.
        place: String,
        /// The record.
        seq: Seq,
        /// What is wrong.
        why: String,
    },
    /// A record that wouldn't come back as it is (a number that isn't finite).
    #[error("record {seq} can't be stored: {why} (a defect of Rekindle)")]
    Unstorable {
        /// The record.
        seq: Seq,
        /// What is wrong.
        why: String,
    },
    /// Records out of order.
    #[error("record {found} where {wanted} is due (a defect of Rekindle)")]
    OutOfOrder {
        /// The number that is due.
        wanted: Seq,
        /// The number given.
        found: Seq,
    },
    /// The file system or the database failed.
    #[error("{path} can't be {verb}: {why}; check the disk's space and the file's rights")]
    Io {
        /// The file.
        path: PathBuf,
        /// `opened`, `read` or `written`.
        verb: &'static str,
        /// What it said.
        why: String,
    },
}
