//! One piece of memory, handed out in parts: places are offsets, whoever has the memory adds its address.
//!
//! First fit, and neighbours that come back become one again. A trainer takes nearly all of its memory at its start
//! and keeps it, so gaps don't matter.
//!
//! Parts are given back while work that uses them may still be in the stream. That is sound because whatever uses the
//! same place next comes later in the same stream (CP-8), and a copy on the other stream holds its source until it is
//! done.
//!
//! Deliberately absent: calls of the driver, and growth.

use std::collections::BTreeMap;

/// Every part starts at a multiple of this, as what the driver gives does; the choice of an algorithm for products
/// looks at no more than that.
pub const ALIGNMENT: usize = 256;

/// What is left of the piece.
#[derive(Debug)]
pub struct Arena {
    /// Lengths by start; no two of them touch.
    free: BTreeMap<u64, u64>,
}

fn rounded(bytes: usize) -> u64 {
    bytes.max(1).next_multiple_of(ALIGNMENT) as u64
}

impl Arena {
    /// All of a piece of so many bytes.
    pub fn new(bytes: usize) -> Self {
        let len = (bytes / ALIGNMENT * ALIGNMENT) as u64;
        Self {
            free: (len > 0).then_some((0, len)).into_iter().collect(),
        }
    }

    /// A place for `bytes`; none where no gap is long enough.
    pub fn take(&mut self, bytes: usize) -> Option<u64> {
        let want = rounded(bytes);
        let (start, len) = self.free.iter().find(|(_, len)| **len >= want)?;
        let (start, len) = (*start, *len);
        self.free.remove(&start);
        if len > want {
            self.free.insert(start + want, len - want);
        }
        Some(start)
    }

    /// Takes a place back that was given for as many bytes.
    pub fn give(&mut self, start: u64, bytes: usize) {
        let (mut start, mut len) = (start, rounded(bytes));
        if let Some(after) = self.free.remove(&(start + len)) {
            len += after;
        }
        if let Some((&before, &gap)) = self.free.range(..start).next_back()
            && before + gap == start
        {
            self.free.remove(&before);
            (start, len) = (before, len + gap);
        }
        self.free.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_disjoint_and_come_back_as_one_piece() {
        let mut arena = Arena::new(10 * ALIGNMENT + 5);
        let sizes = [1, ALIGNMENT, ALIGNMENT + 1, 0, 2 * ALIGNMENT];
        let places: Vec<u64> = sizes.iter().map(|bytes| arena.take(*bytes).unwrap()).collect();
        assert_eq!(places, [0, 1, 2, 4, 5].map(|n| n * ALIGNMENT as u64));
        assert_eq!(arena.take(4 * ALIGNMENT), None, "three are left");
        // In an order in which some have neighbours before, after, on both sides and on none.
        for n in [1, 3, 0, 4, 2] {
            arena.give(places[n], sizes[n]);
        }
        assert_eq!(arena.take(10 * ALIGNMENT), Some(0));
        assert_eq!(arena.take(1), None);
    }

    #[test]
    fn a_gap_is_used_again_by_what_fits() {
        let mut arena = Arena::new(6 * ALIGNMENT);
        let [a, b] = [2, 1].map(|n| arena.take(n * ALIGNMENT).unwrap());
        arena.give(a, 2 * ALIGNMENT);
        assert_eq!(arena.take(3 * ALIGNMENT), Some(3 * ALIGNMENT as u64), "behind b");
        assert_eq!(arena.take(2 * ALIGNMENT), Some(a));
        arena.give(b, ALIGNMENT);
        assert_eq!(arena.take(ALIGNMENT), Some(b));
        assert_eq!(Arena::new(ALIGNMENT - 1).take(0), None, "too small for anything");
    }
}
