//! Which elements of a buffer hold nothing yet.

use std::ops::Range;

/// Disjoint ranges without content; usually none.
#[derive(Debug, Default)]
pub(super) struct Gaps(Vec<Range<usize>>);

impl Gaps {
    /// Everything of `0..len` but `kept`.
    pub fn around(kept: &Range<usize>, len: usize) -> Self {
        let sides = [0..kept.start, kept.end..len];
        Self(sides.into_iter().filter(|side| !side.is_empty()).collect())
    }

    /// `range` has content now.
    pub fn fill(&mut self, range: &Range<usize>) {
        if self.0.is_empty() {
            return;
        }
        let cut = |gap: &Range<usize>| {
            [
                gap.start..gap.end.min(range.start),
                gap.start.max(range.end)..gap.end,
            ]
        };
        self.0 = self
            .0
            .iter()
            .flat_map(cut)
            .filter(|gap| !gap.is_empty())
            .collect();
    }

    /// The first part of `range` without content.
    pub fn within(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let common = |gap: &Range<usize>| gap.start.max(range.start)..gap.end.min(range.end);
        self.0.iter().map(common).find(|common| !common.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_close_piece_by_piece() {
        let mut gaps = Gaps::around(&(4..6), 10);
        assert_eq!(gaps.within(&(4..6)), None);
        assert_eq!(gaps.within(&(0..10)), Some(0..4));
        gaps.fill(&(1..3));
        assert_eq!(gaps.within(&(1..3)), None);
        assert_eq!(gaps.within(&(2..10)), Some(3..4));
        gaps.fill(&(0..5));
        assert_eq!(gaps.within(&(0..10)), Some(6..10));
        gaps.fill(&(6..10));
        assert_eq!(gaps.within(&(0..10)), None);
    }

    #[test]
    fn nothing_is_open_around_everything() {
        assert_eq!(Gaps::around(&(0..10), 10).within(&(0..10)), None);
    }
}
