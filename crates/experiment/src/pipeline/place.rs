//! Where in the pipeline: the embedding, a block stage, the head.

use std::fmt;

use serde::Serialize;

/// A stage of the pipeline. Shown as the paper counts: `embed`, `S1` to `Ss`, `head`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The embedding.
    Embed,
    /// A block stage, from 0.
    Blocks(u32),
    /// Final norm and output matrix.
    Head,
}

impl Place {
    /// The number in pipeline order, the embedding 0, of a pipeline of `stages` block stages.
    #[must_use]
    pub fn index(self, stages: u32) -> usize {
        match self {
            Self::Embed => 0,
            Self::Blocks(n) => n as usize + 1,
            Self::Head => stages as usize + 1,
        }
    }

    /// All places, in pipeline order.
    pub fn all(stages: u32) -> impl Iterator<Item = Self> {
        std::iter::once(Self::Embed)
            .chain((0..stages).map(Self::Blocks))
            .chain(std::iter::once(Self::Head))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embed => f.pad("embed"),
            Self::Blocks(n) => f.pad(&format!("S{}", n + 1)),
            Self::Head => f.pad("head"),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
