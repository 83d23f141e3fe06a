//! The format of a checkpoint: names, the manifest, the headers of tensor files. Values and bytes, no input or output.
//!
//! ```text
//!   step-00000050/manifest.json                        written last, create-only: it is there = committed
//!   step-00000050/<writer>/model/<group>.safetensors   weights; <writer> names job, epoch and time of the plan
//!   step-00000050/<writer>/optim/<group>.safetensors   Adam moments
//! ```
//!
//! Invariants
//! - CK-10 A manifest that was assembled or parsed covers every element of every kind of every layer exactly once, in
//!   files whose lengths, offsets, digests and sum fit together.
//! - CK-11 Of a manifest of a newer schema nothing is believed but its number; every older one stays readable.
//! - CK-19 A manifest in which a bit was changed is refused.
//! - CK-12 A tensor file opens in any safetensors library; its data starts at a multiple of [`ALIGN`] bytes.
//!
//! `docs/checkpoint-format.md` says the same for readers in other languages. Deliberately absent: who writes which
//! part.

mod assemble;
mod check;
mod coverage;
mod differences;
mod error;
mod header;
mod layout;
mod manifest;
mod pieces;
mod seal;

pub use assemble::Assembly;
pub use differences::Differences;
pub use error::FormatError;
pub use header::{check_header, header_for};
pub use layout::FileLayout;
pub use manifest::{Lineage, Manifest, Recipe, SCHEMA_VERSION, Topology};
pub use pieces::{Piece, pieces};
pub use seal::seal;

use std::ops::Range;

use rekindle_types::{
    BLOCK, Epoch, JobId, LayerId, ModelConfig, Plan, RankId, Section, StateKind, shard_range,
};

pub(crate) type Result<T> = std::result::Result<T, FormatError>;

/// Data of a tensor file starts at a multiple of this, so that it can be written past the page cache from whole pages.
pub const ALIGN: usize = 4096;
/// Largest manifest that is read: one of a model of 10^12 parameters has less.
pub const LARGEST_MANIFEST: u64 = 256 << 20;
/// Number format of every element there is so far.
pub const DTYPE: &str = "F32";

/// A run of elements of a layer's flat buffer of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The layer.
    pub layer: LayerId,
    /// What of it.
    pub kind: StateKind,
    /// First element.
    pub start: u64,
    /// One past the last element.
    pub end: u64,
}

impl Span {
    /// `range` of a layer.
    #[must_use]
    pub fn new(layer: LayerId, kind: StateKind, range: Range<u64>) -> Self {
        let (start, end) = (range.start, range.end);
        Self {
            layer,
            kind,
            start,
            end,
        }
    }

    /// The elements.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a section holds.
    #[must_use]
    pub fn of(section: &Section) -> Self {
        Self::new(section.layer, section.kind, section.start..section.end)
    }
}

/// Bytes of an element of a number format that is known.
pub(crate) fn element_bytes(dtype: &str) -> Option<u64> {
    (dtype == DTYPE).then_some(4)
}

/// The name of a checkpoint's folder: `step-00000050`.
#[must_use]
pub fn step_folder(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step that a folder is named for; none for other names, other spellings among them.
#[must_use]
pub fn step_of_folder(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (step_folder(step) == name).then_some(step)
}

/// The key of a checkpoint's manifest.
#[must_use]
pub fn manifest_key(step: u64) -> String {
    format!("{}/manifest.json", step_folder(step))
}

/// The name of whoever writes the parts of one plan: job, epoch and the time the plan was made, so that no other plan
/// has it.
#[must_use]
pub fn writer_name(job: &JobId, epoch: Epoch, plan_unix_ms: u64) -> String {
    format!("{job}-{epoch}-{plan_unix_ms:x}")
}

/// The path of a tensor file inside its step's folder. `group` says which layers, and which part of them: any plain
/// name that no other file of the writer and kind has.
#[must_use]
pub fn part_path(writer: &str, kind: StateKind, group: &str) -> String {
    let folder = match kind {
        StateKind::Weights => "model",
        StateKind::ExpAvg | StateKind::ExpAvgSq => "optim",
    };
    format!("{writer}/{folder}/{group}.safetensors")
}

/// What `rank` writes of the state: its lane's share of each kind of each of its layers, layer by layer.
#[must_use]
pub fn owned_spans(config: &ModelConfig, plan: &Plan, rank: RankId) -> Vec<Span> {
    spans(config, plan, rank, |_| false)
}

/// What `rank` needs of the state: all weights of its layers, and its lane's share of the moments.
#[must_use]
pub fn needed_spans(config: &ModelConfig, plan: &Plan, rank: RankId) -> Vec<Span> {
    spans(config, plan, rank, |kind| kind == StateKind::Weights)
}

fn spans(config: &ModelConfig, plan: &Plan, rank: RankId, whole: impl Fn(StateKind) -> bool) -> Vec<Span> {
    let rank = plan.rank(rank);
    let layers = plan.stages.get(rank.stage as usize).cloned().unwrap_or(0..0);
    let mut spans = Vec::new();
    for layer in config.layers().skip(layers.start as usize).take(layers.len()) {
        let numel = config.layout(layer).numel();
        for kind in StateKind::ALL {
            let range = if whole(kind) {
                0..numel
            } else {
                shard_range(numel, plan.lanes, rank.lane)
            };
            if !range.is_empty() {
                spans.push(Span::new(layer, kind, range.start as u64..range.end as u64));
            }
        }
    }
    spans
}

/// Number of the block that element `at` starts.
pub(crate) fn block_of(at: u64) -> usize {
    usize::try_from(at / BLOCK as u64).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_name_steps_in_one_way() {
        for step in [0, 50, 99_999_999, 100_000_000, u64::MAX] {
            assert_eq!(step_of_folder(&step_folder(step)), Some(step));
        }
        for other in [
            "step-50",
            "step-0000005x",
            "step-+0000050",
            "steps-00000050",
            "pins",
            "step-000000050",
        ] {
            assert_eq!(step_of_folder(other), None, "{other}");
        }
        assert!(rekindle_types::spec::is_checkpoint_url(&step_folder(7)));
    }
}
