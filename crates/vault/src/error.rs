//! Why state can't be kept in shared memory.

use std::path::PathBuf;

/// What went wrong; training can go on without.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no room for so much state.
    #[error("{}: no room for {bytes} bytes of shared memory ({source}); the job goes on without", path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Bytes wanted.
        bytes: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// The table has no room for so many pieces, or the identity is too long.
    #[error("{what} is too large for a table of shared memory; the job goes on without")]
    TooLarge {
        /// What.
        what: &'static str,
    },
}

/// Why a file offers nothing to a successor. None of it is a fault of the successor's.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its writer still lives.
    #[error("its writer still lives")]
    Written,
    /// It is torn, or of another job, rank, layout or job file.
    #[error("it is torn, or of another job, rank, layout or job file")]
    Foreign,
    /// The system refused.
    #[error(transparent)]
    Io(std::io::Error),
}

pub(crate) type Result<T> = std::result::Result<T, VaultError>;
