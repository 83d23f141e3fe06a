//! What goes into the writer and what comes out of it.

use std::sync::Arc;

use rekindle_types::{CheckpointPart, ModelConfig, RankId, StateDigest};

use crate::format::Span;

/// Bytes that stay as they are for as long as they are held: a handle on frozen state, usually. The writer reads them
/// from its own threads, once for the file and, without given digests, once before for the digest, and relies on
/// finding the same both times.
pub trait Held: Send + Sync + 'static {
    /// The bytes, the same at every call. May wait until they are there (a copy from a device).
    ///
    /// # Errors
    /// Why they can't be had; the capture fails with it at once.
    fn bytes(&self) -> Result<&[u8], String>;
}

impl Held for Vec<u8> {
    fn bytes(&self) -> Result<&[u8], String> {
        Ok(self)
    }
}

/// A run of elements of a layer and their bytes.
#[derive(Clone)]
pub struct HeldPart {
    /// Which elements.
    pub span: Span,
    /// Their bytes in little-endian order. Dropped as soon as the file they are in is durable or given up.
    pub held: Arc<dyn Held>,
    /// The digest of each chunk of them, if whoever made the bytes made these at the same time: then they are only
    /// read to be written. One for each chunk of a [`rekindle_types::Section`] of this span; taken on trust, a reader
    /// finds out if they are wrong.
    pub digests: Option<Arc<[StateDigest]>>,
}

/// One rank's state of one step.
pub struct Capture {
    /// The last step whose update is in it.
    pub step: u64,
    /// The folder to write to inside the step's, see [`crate::format::writer_name`].
    pub writer: String,
    /// Whose state it is.
    pub rank: RankId,
    /// This rank's lane where there are several: tells its files from those of the stage's other lanes.
    pub lane: Option<u32>,
    /// The whole model's shape, which names the tensors.
    pub model: Arc<ModelConfig>,
    /// The state in pipeline order; layers that follow one another may share a file.
    pub parts: Vec<HeldPart>,
}

/// A capture that was taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// Counts the captures of a writer, from 0.
    pub number: u64,
    /// Its step.
    pub step: u64,
}

/// How a capture ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Every byte is where it can't be lost by a crash, and so are the names of the files. The part's `stall_seconds`
    /// is 0: only the trainer knows it.
    Durable(CheckpointPart),
    /// Nothing of it can be used; its files are removed as far as the store lets us.
    Failed {
        /// The step.
        step: u64,
        /// The last error, with the file at fault.
        error: String,
        /// Attempts to write a file that failed.
        attempts: u32,
    },
}

impl Outcome {
    /// The capture's step.
    #[must_use]
    pub fn step(&self) -> u64 {
        match self {
            Self::Durable(part) => part.step,
            Self::Failed { step, .. } => *step,
        }
    }
}

/// Why a capture isn't taken on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many are being written.
    #[error(
        "step {step} can't be saved yet: {limit} earlier captures are still being written; save less often, or to a faster store"
    )]
    Full {
        /// The step.
        step: u64,
        /// [`super::WriterOptions::captures`].
        limit: usize,
    },
    /// The writer is closed, or its threads have ended.
    #[error("step {step} can't be saved: {why}")]
    Closed {
        /// The step.
        step: u64,
        /// What happened.
        why: String,
    },
}
