//! The gradient accumulators of a stage.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rekindle_compute::{Device, SumKind};
use rekindle_types::{BLOCK, LayerId};

use super::{EngineError, Result};
use crate::ExactSum;

/// What a rank adds to the global gradient norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GradientSummary {
    /// Squares of the mean gradient over the owned shards, see [`ExactSum::of_squares`].
    pub sum_squares: ExactSum,
    /// False when an element is NaN, infinite or was out of range: then don't update.
    pub finite: bool,
}

struct Entry<D: Device> {
    sums: D::Sums,
    numel: usize,
    /// The elements whose norm this rank reports; empty for a mirror.
    owned: Range<usize>,
    /// Squares of the owned elements, if [`GradientSums::write_mean`] made them and nothing was written since.
    squares: Option<Vec<f64>>,
}

/// Gradient sums by layer: `i64` fixed point in exact mode, the device's float in fast mode.
pub struct GradientSums<D: Device> {
    device: Arc<D>,
    kind: SumKind,
    tokens: u64,
    entries: BTreeMap<LayerId, Entry<D>>,
}

impl<D: Device> GradientSums<D> {
    pub(super) fn new(device: Arc<D>, kind: SumKind, tokens: u64) -> Self {
        Self {
            device,
            kind,
            tokens,
            entries: BTreeMap::new(),
        }
    }

    pub(super) fn insert(&mut self, layer: LayerId, numel: usize, owned: Range<usize>) -> Result<()> {
        let sums = self.device.alloc_sums(self.kind, numel)?;
        let entry = Entry {
            sums,
            numel,
            owned,
            squares: None,
        };
        self.entries.insert(layer, entry);
        Ok(())
    }

    /// Bytes of one element of [`GradientSums::bytes`].
    #[must_use]
    pub fn element_bytes(&self) -> usize {
        match self.kind {
            SumKind::Fixed { .. } => size_of::<i64>(),
            SumKind::Float => size_of::<D::Float>(),
        }
    }

    fn entry(&self, layer: LayerId, range: &Range<usize>) -> Result<&Entry<D>> {
        let entry = self.entries.get(&layer).ok_or(EngineError::Layer { layer })?;
        check(layer, range, &(0..entry.numel))?;
        Ok(entry)
    }

    /// The sums' bytes in native (little-endian) order, for the same layer of another lane or, for a mirrored
    /// embedding, of its owner.
    ///
    /// # Errors
    /// When the layer or the range isn't here.
    pub fn bytes(&self, layer: LayerId, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let entry = self.entry(layer, &range)?;
        Ok(self.device.sums_bytes(&entry.sums, range)?)
    }

    /// Adds another rank's [`GradientSums::bytes`].
    ///
    /// # Errors
    /// When the layer or the range isn't here, or the length doesn't fit.
    pub fn add_bytes(&mut self, layer: LayerId, range: Range<usize>, bytes: &[u8]) -> Result<()> {
        self.entry(layer, &range)?;
        let (device, sums) = self.sums(layer)?;
        Ok(device.add_sums_bytes(sums, range, bytes)?)
    }

    pub(super) fn sums(&mut self, layer: LayerId) -> Result<(&D, &mut D::Sums)> {
        let entry = self.entries.get_mut(&layer).ok_or(EngineError::Layer { layer })?;
        entry.squares = None;
        Ok((&self.device, &mut entry.sums))
    }

    /// Clears what the optimizer, which clears the owned part as it goes, leaves.
    pub(super) fn clear_rest(&mut self, layer: LayerId) -> Result<()> {
        let entry = self.entries.get_mut(&layer).ok_or(EngineError::Layer { layer })?;
        self.device.clear(&mut entry.sums, 0..entry.owned.start)?;
        Ok(self.device.clear(&mut entry.sums, entry.owned.end..entry.numel)?)
    }

    pub(super) fn clear_all(&mut self) -> Result<()> {
        for entry in self.entries.values_mut() {
            entry.squares = None;
            self.device.clear(&mut entry.sums, 0..entry.numel)?;
        }
        Ok(())
    }

    /// The mean gradient (sum divided by the step's tokens), rounded to the device's float. For checks and tools.
    ///
    /// # Errors
    /// When the layer or the range isn't here.
    pub fn mean(&self, layer: LayerId, range: Range<usize>) -> Result<Vec<D::Float>> {
        let entry = self.entry(layer, &range)?;
        Ok(self.device.mean(&entry.sums, range, self.tokens)?)
    }

    /// The owned shard's mean gradient as [`super::Stage::update`] takes it, before clipping, into `out`, which is as
    /// long as the shard. Once the shard holds the sums of all lanes (and of the mirror): what the norm needs of it
    /// is made in the same pass.
    ///
    /// # Errors
    /// When the layer isn't here, or the length doesn't fit.
    pub fn write_mean(&mut self, layer: LayerId, out: &mut [D::Float]) -> Result<()> {
        let entry = self.entries.get_mut(&layer).ok_or(EngineError::Layer { layer })?;
        let (sums, owned) = (&entry.sums, entry.owned.clone());
        if owned.is_empty() && out.is_empty() {
            return Ok(());
        }
        let squares = self
            .device
            .mean_and_squares(sums, owned, BLOCK, self.tokens, out)?;
        entry.squares = Some(squares);
        Ok(())
    }

    /// Squares over the owned shards, block by block.
    pub(super) fn summary(&mut self) -> Result<GradientSummary> {
        let mut summary = GradientSummary {
            sum_squares: ExactSum::default(),
            finite: true,
        };
        for entry in self.entries.values_mut() {
            if entry.owned.is_empty() {
                continue;
            }
            let squares = match entry.squares.take() {
                Some(squares) => squares,
                None => {
                    let owned = entry.owned.clone();
                    self.device
                        .block_squares(&entry.sums, owned, BLOCK, self.tokens)?
                }
            };
            for square in squares {
                match ExactSum::of_squares(square).and_then(|s| summary.sum_squares.add(s)) {
                    Some(sum) => summary.sum_squares = sum,
                    None => summary.finite = false,
                }
            }
        }
        Ok(summary)
    }

    pub(super) fn memory(&self) -> u64 {
        self.entries
            .values()
            .map(|e| (e.numel * self.element_bytes()) as u64)
            .sum()
    }
}

/// Refuses a range outside `held`.
pub(super) fn check(layer: LayerId, range: &Range<usize>, held: &Range<usize>) -> Result<()> {
    if held.start <= range.start && range.start <= range.end && range.end <= held.end {
        return Ok(());
    }
    Err(EngineError::Range {
        layer,
        start: range.start,
        end: range.end,
        from: held.start,
        to: held.end,
    })
}
