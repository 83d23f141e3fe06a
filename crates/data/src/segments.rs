//! Runs of ids, in memory or mapped, read as one sequence.
//!
//! In: stores of little-endian ids, in order. Out: any range of ids. Empty stores are dropped.

use crate::token_file::{TokenFile, Width};

/// Where a run of ids is.
#[derive(Debug)]
pub(crate) enum Store {
    /// Little-endian ids in memory.
    Memory(Width, Vec<u8>),
    /// A token file.
    Mapped(TokenFile),
}

impl Store {
    fn parts(&self) -> (Width, &[u8]) {
        match self {
            Self::Memory(width, bytes) => (*width, bytes),
            Self::Mapped(file) => (file.width(), file.bytes()),
        }
    }
}

#[derive(Debug)]
struct Segment {
    /// Index of its first token in the whole.
    start: u64,
    /// Index after its last token.
    end: u64,
    store: Store,
}

/// Stores one after another.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    segments: Vec<Segment>,
}

impl Segments {
    pub(crate) fn push(&mut self, store: Store) {
        let (width, bytes) = store.parts();
        let start = self.tokens();
        let end = start + (bytes.len() / width.bytes()) as u64;
        if end > start {
            self.segments.push(Segment { start, end, store });
        }
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.end)
    }

    /// Appends up to `count` ids from token `start` on.
    pub(crate) fn read(&self, start: u64, count: u64, ids: &mut Vec<u32>) {
        let end = start.saturating_add(count).min(self.tokens());
        let first = self.segments.partition_point(|segment| segment.end <= start);
        for segment in self.segments[first..]
            .iter()
            .take_while(|segment| segment.start < end)
        {
            // Offsets into a slice that exists fit usize.
            let from = (start.max(segment.start) - segment.start) as usize;
            let to = (end.min(segment.end) - segment.start) as usize;
            let (width, bytes) = segment.store.parts();
            width.read(&bytes[from * width.bytes()..to * width.bytes()], ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_range_of_any_cut_is_that_of_the_whole(
            parts in prop::collection::vec((any::<bool>(), prop::collection::vec(0u32..65_536, 0..9)), 0..8),
            start in 0u64..80,
            count in 0u64..80,
        ) {
            let mut segments = Segments::default();
            let mut whole = Vec::new();
            for (wide, ids) in parts {
                let width = if wide { Width::U32 } else { Width::U16 };
                let mut bytes = Vec::new();
                width.write(&ids, &mut bytes);
                segments.push(Store::Memory(width, bytes));
                whole.extend(ids);
            }
            let mut read = Vec::new();
            segments.read(start, count, &mut read);
            let expected: Vec<u32> = whole.iter().copied().skip(start as usize).take(count as usize).collect();
            prop_assert_eq!((segments.tokens(), read), (whole.len() as u64, expected));
        }
    }
}
