//! Which layers share a file: few small files cost a disk and an object store more than their bytes.

use std::ops::Range;

use rekindle_types::LayerId;

/// A group of less than this part of the target joins the one before it.
const SMALL: u64 = 4;

/// Cuts layers, given by their bytes of weights, into runs of at least `target` bytes where there are so many. A
/// layer of at least `target` is a run of its own, but for small leftovers beside it, which would cost as much as a
/// whole file.
pub(super) fn groups(bytes: &[u64], target: u64) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (at, &layer) in bytes.iter().enumerate() {
        let small = size < target / SMALL;
        if layer >= target && at > start && !(small && runs.is_empty()) {
            close(&mut runs, start..at, small);
            (start, size) = (at, 0);
        }
        size += layer;
        if size >= target {
            runs.push(start..at + 1);
            (start, size) = (at + 1, 0);
        }
    }
    if start < bytes.len() {
        close(&mut runs, start..bytes.len(), size < target / SMALL);
    }
    runs
}

/// Ends a run; a small one joins the one before it.
fn close(runs: &mut Vec<Range<usize>>, run: Range<usize>, small: bool) {
    match runs.last_mut() {
        Some(last) if small => last.end = run.end,
        _ => runs.push(run),
    }
}

/// The name of a group's files: `block.3`, `embed..block.2`, `head.lane-1`.
pub(super) fn group_name(first: LayerId, last: LayerId, lane: Option<u32>) -> String {
    let last = if last == first {
        String::new()
    } else {
        format!("..{last}")
    };
    let lane = lane.map_or_else(String::new, |lane| format!(".lane-{lane}"));
    format!("{first}{last}{lane}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_layers_share_and_large_ones_do_not() {
        let at = |bytes: &[u64], target| -> Vec<(usize, usize)> {
            groups(bytes, target)
                .into_iter()
                .map(|run| (run.start, run.end))
                .collect()
        };
        assert_eq!(at(&[], 10), []);
        assert_eq!(at(&[3], 10), [(0, 1)]);
        assert_eq!(at(&[4, 4, 4, 4, 4, 4], 10), [(0, 3), (3, 6)]);
        // A leftover of a quarter stays, a smaller one joins.
        assert_eq!(at(&[4, 4, 4, 3], 10), [(0, 3), (3, 4)]);
        assert_eq!(at(&[4, 4, 4, 1], 10), [(0, 4)]);
        assert_eq!(at(&[12, 12, 12], 10), [(0, 1), (1, 2), (2, 3)]);
        // Small before large: with the next one at the start, with the one before elsewhere.
        assert_eq!(at(&[1, 12, 12, 1], 10), [(0, 2), (2, 4)]);
        assert_eq!(at(&[3, 12], 10), [(0, 1), (1, 2)]);
        assert_eq!(at(&[12, 1, 12], 10), [(0, 2), (2, 3)]);
        assert_eq!(at(&[1, 1, 1], 0), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(at(&[0, 0], 10), [(0, 2)]);
        assert_eq!(at(&[0, 20], 10), [(0, 2)]);
    }

    #[test]
    fn every_layer_is_in_one_run() {
        for seed in 0..200_u64 {
            let bytes: Vec<u64> = (0..seed % 17).map(|i| (seed * 7919 + i * 104_729) % 23).collect();
            let mut next = 0;
            for run in groups(&bytes, 1 + seed % 30) {
                assert_eq!(run.start, next);
                assert!(run.end > run.start);
                next = run.end;
            }
            assert_eq!(next, bytes.len());
        }
    }

    #[test]
    fn names_say_which_layers_and_which_lane() {
        use LayerId::{Block, Embed, Head};
        assert_eq!(group_name(Block(3), Block(3), None), "block.3");
        assert_eq!(group_name(Embed, Block(2), None), "embed..block.2");
        assert_eq!(group_name(Head, Head, Some(1)), "head.lane-1");
    }
}
