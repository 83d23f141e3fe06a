//! What a checkpoint is made of, as values: which file holds which elements, and how each part of it is checked.
//!
//! ```text
//!   rank --CheckpointPart (its files, durable)--> worker --> coordinator --all parts of a step--> manifest.json = COMMIT POINT
//! ```
//!
//! A file is a safetensors header followed by sections without gaps; a section is a run of elements of one layer's
//! flat buffer. A section is checked in chunks of whole blocks ([`BLOCK`] elements): a chunk's digest is the
//! [`StateDigest`] of its blocks. So the digests of all files add up to the state digest of the step.
//!
//! Deliberately absent: bytes, and where they lie (see `rekindle-checkpoint`).

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{BLOCK, LayerId, RankId, Rebuilt, StateDigest, StateKind};

/// Chunks a section is cut into at most, unless they got larger than [`MOST_CHUNK_BLOCKS`]. Reading a part of a
/// section reads at most two chunks too much.
const CHUNKS: u64 = 128;
/// Blocks of a chunk at most: 4 MiB of 32-bit floats.
const MOST_CHUNK_BLOCKS: u64 = 1024;

/// A run of elements of a layer's flat buffer of one kind, as it lies in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// The layer.
    pub layer: LayerId,
    /// What of it.
    pub kind: StateKind,
    /// First element; a multiple of [`BLOCK`].
    pub start: u64,
    /// One past the last element; a multiple of [`BLOCK`] or the layer's length.
    pub end: u64,
    /// Byte of the file at which the first element starts.
    pub offset: u64,
    /// Digest of each chunk, in order. All chunks but the last have [`Section::chunk_elements`] elements.
    pub digests: Vec<StateDigest>,
}

impl Section {
    /// Elements of a chunk of a section of this length: a pure function of it, so nobody has to write it down.
    #[must_use]
    pub fn chunk_elements(&self) -> u64 {
        chunk_elements(self.end.saturating_sub(self.start))
    }

    /// Number of chunks.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        self.end
            .saturating_sub(self.start)
            .div_ceil(self.chunk_elements())
    }

    /// The elements of chunk `index`.
    #[must_use]
    pub fn chunk(&self, index: u64) -> Range<u64> {
        let start = self.start + index * self.chunk_elements();
        start.min(self.end)..(start + self.chunk_elements()).min(self.end)
    }
}

/// Elements of a chunk of a section of `elements`.
#[must_use]
pub fn chunk_elements(elements: u64) -> u64 {
    let blocks = elements.div_ceil(BLOCK as u64);
    blocks.div_ceil(CHUNKS).clamp(1, MOST_CHUNK_BLOCKS) * BLOCK as u64
}

/// One tensor file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative to the checkpoint's folder, with `/`.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// Length of the safetensors header, its 8-byte length included: where the first section starts.
    pub header_bytes: u64,
    /// xxh3_128 (seed 0) of the header.
    pub header_digest: StateDigest,
    /// Number format of the elements, as safetensors names it (`F32`).
    pub dtype: String,
    /// What it holds, in file order, without gaps.
    pub sections: Vec<Section>,
}

impl FileEntry {
    /// Digest of the whole file: the wrapping sum of the header's and every chunk's.
    #[must_use]
    pub fn digest(&self) -> StateDigest {
        self.header_digest.add(self.state_digest())
    }

    /// Digest of the state in it: the wrapping sum of every chunk's.
    #[must_use]
    pub fn state_digest(&self) -> StateDigest {
        let chunks = self.sections.iter().flat_map(|section| &section.digests);
        chunks.fold(StateDigest::default(), |sum, digest| sum.add(*digest))
    }
}

/// What one rank has made durable of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointPart {
    /// The step whose state it is.
    pub step: u64,
    /// Who wrote it.
    pub rank: RankId,
    /// Its files.
    pub files: Vec<FileEntry>,
    /// From the capture to the last durable byte, seconds.
    pub persist_seconds: f64,
    /// How long this rank's training thread has stood still for it so far, seconds.
    pub stall_seconds: f64,
}

/// Where a run starts from, if not from its first weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartPoint {
    /// The last step whose update is in the state.
    pub step: u64,
    /// URL of the checkpoint's folder.
    pub url: String,
    /// Layers whose state was made up before it was saved; in pipeline order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rebuilt: Vec<Rebuilt>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(start: u64, end: u64) -> Section {
        Section {
            layer: LayerId::Block(0),
            kind: StateKind::Weights,
            start,
            end,
            offset: 0,
            digests: Vec::new(),
        }
    }

    #[test]
    fn chunks_partition_a_section() {
        let block = BLOCK as u64;
        for elements in [1, block - 1, block, block + 1, 300 * block + 5, 5_000_000_000] {
            let section = section(3 * block, 3 * block + elements);
            let mut next = section.start;
            for index in 0..section.chunk_count() {
                let chunk = section.chunk(index);
                assert_eq!(chunk.start, next);
                assert!(chunk.end > chunk.start && chunk.start.is_multiple_of(block));
                next = chunk.end;
            }
            assert_eq!(next, section.end);
        }
    }

    #[test]
    fn chunks_are_few_or_small() {
        for elements in [1_u64 << 12, 1 << 20, 1 << 27, 1 << 33] {
            let section = section(0, elements);
            let chunk = section.chunk_elements() / BLOCK as u64;
            assert!(section.chunk_count() <= CHUNKS || chunk == MOST_CHUNK_BLOCKS);
            assert!(chunk <= MOST_CHUNK_BLOCKS);
        }
    }
}
