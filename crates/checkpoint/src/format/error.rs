//! What can be wrong with a manifest or a header, told so that it can be found.

/// Why something isn't a checkpoint that this program can take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A later version wrote it.
    #[error(
        "has schema version {found}, this version of Rekindle reads up to {known}; use the newer version"
    )]
    Newer {
        /// Its version.
        found: u64,
        /// The newest this code reads.
        known: u32,
    },
    /// It isn't a manifest.
    #[error("is not the manifest of a checkpoint: {0}")]
    Foreign(String),
    /// It contradicts itself.
    #[error("contradicts itself: {0}; it was changed or damaged after it was written")]
    Inconsistent(String),
    /// Parts that don't make a checkpoint.
    #[error("these parts don't make a checkpoint: {0}")]
    Parts(String),
    /// The head of a tensor file isn't what its manifest says.
    #[error("{path}: the header {why}; the file was changed or damaged after it was written")]
    Header {
        /// Inside the step's folder.
        path: String,
        /// What is wrong.
        why: String,
    },
}
