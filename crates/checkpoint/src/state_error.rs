//! What can go wrong with a checkpoint on a store, besides the store itself. Every error names the URL and what to do.

use std::fmt;
use std::ops::Range;

use crate::error::CheckpointError;
use crate::format::{FormatError, Span};
use crate::store::StoreError;

/// Why a checkpoint can't be written, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A manifest or header isn't one, is newer, or doesn't fit together.
    #[error("{url}: {error}")]
    Format {
        /// The file.
        url: String,
        /// What is wrong.
        error: FormatError,
    },
    /// Files that the manifest names are missing or have another length.
    #[error("{url}: {why}")]
    Incomplete {
        /// The checkpoint.
        url: String,
        /// Which file, and what is wrong.
        why: String,
    },
    /// Bytes that aren't the ones that were written.
    #[error("{0}")]
    Damaged(Damage),
    /// Another one was committed for this step.
    #[error("{url}: is committed already, by {writer}; it stays as it is")]
    Taken {
        /// The manifest.
        url: String,
        /// Whose files it names.
        writer: String,
    },
    /// The caller asked for what can't be.
    #[error("{url}: {why}")]
    Request {
        /// The checkpoint or location.
        url: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// A Hugging Face folder on the other side.
    #[error(transparent)]
    Folder(#[from] CheckpointError),
}

/// A place of a file whose bytes aren't the ones that were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// URL of the file.
    pub url: String,
    /// Its bytes at fault.
    pub bytes: Range<u64>,
    /// What they hold; none: the file's header.
    pub span: Option<Span>,
    /// What was found.
    pub why: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            bytes,
            span,
            why,
        } = self;
        write!(f, "{url}: bytes {}..{} (", bytes.start, bytes.end)?;
        match span {
            Some(span) => write!(
                f,
                "{} of {}, elements {}..{}",
                span.kind, span.layer, span.start, span.end
            )?,
            None => write!(f, "its header")?,
        }
        write!(f, ") are damaged: {why}; use another checkpoint")
    }
}

pub(crate) type Result<T> = std::result::Result<T, StateError>;
