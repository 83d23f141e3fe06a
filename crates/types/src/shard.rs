//! How a layer's flat buffer is cut into blocks and over lanes (interleaved ZeRO-1: rank d owns part d of every layer).

use std::ops::Range;

/// Elements of a block, the unit of norms, digests and shard borders.
pub const BLOCK: usize = 1024;

/// The elements of a layer of `numel` elements that `lane` of `lanes` owns: whole blocks, the last one clipped.
#[must_use]
pub fn shard_range(numel: usize, lanes: u32, lane: u32) -> Range<usize> {
    let blocks = numel.div_ceil(BLOCK);
    let cut = |lane: u32| (blocks * lane as usize / lanes.max(1) as usize * BLOCK).min(numel);
    cut(lane)..cut(lane + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_partition_a_layer_at_block_borders() {
        for numel in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 10 * BLOCK + 3] {
            for lanes in 1..6 {
                let mut next = 0;
                for lane in 0..lanes {
                    let range = shard_range(numel, lanes, lane);
                    assert_eq!(range.start, next);
                    assert!(range.start.is_multiple_of(BLOCK) || range.start == numel);
                    next = range.end;
                }
                assert_eq!(next, numel);
            }
        }
    }
}
