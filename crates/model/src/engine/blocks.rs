//! Digests that an update makes of what it leaves, while that is in the cache.

use std::sync::Arc;

use rekindle_compute::{BlockHash, Hashing};
use rekindle_types::checkpoint::chunk_elements;
use rekindle_types::{BLOCK, StateDigest};

/// Digests of weights, first and second moments of what a rank owns of a layer: one for each chunk, as a checkpoint's
/// sections want them ([`rekindle_types::Section`]).
pub(super) type ChunkDigests = [Arc<[StateDigest]>; 3];

/// A digest for each block of the three kinds.
pub(super) struct Blocks([Vec<u128>; 3]);

impl Blocks {
    /// For `elements` of each kind.
    pub fn new(elements: usize) -> Self {
        Self(std::array::from_fn(|_| vec![0; elements.div_ceil(BLOCK)]))
    }

    /// Where an update puts them.
    pub fn hashing<'a>(&'a mut self, hash: &'a BlockHash<'a>) -> Hashing<'a> {
        Hashing {
            block: BLOCK,
            hash,
            out: self.0.each_mut().map(Vec::as_mut_slice),
        }
    }

    /// Added up by chunks of a section of `elements`.
    pub fn by_chunk(&self, elements: usize) -> ChunkDigests {
        let blocks = usize::try_from(chunk_elements(elements as u64)).unwrap_or(usize::MAX) / BLOCK;
        let sum = |chunk: &[u128]| {
            chunk
                .iter()
                .fold(StateDigest::default(), |sum, block| sum.add(StateDigest(*block)))
        };
        self.0
            .each_ref()
            .map(|kind| kind.chunks(blocks.max(1)).map(sum).collect())
    }
}
