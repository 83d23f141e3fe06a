//! Weights and moments of one layer.

use std::ops::Range;
use std::time::Duration;

use rekindle_compute::{AdamPart, AdamSource, AdamStep, AdamTarget, Device, ElementBytes, part, part_mut};
use rekindle_types::{BLOCK, LayerLayout, ModelConfig, shard_range};

use super::blocks::{Blocks, ChunkDigests};
use super::gaps::Gaps;
use super::gradients::check;
use super::{AdamW, EngineError, Result};
use crate::{StateDigest, StateKind, init};

/// A layer on this rank: its weights (all of them, or in a shadow those of the shard or none), the moments of the
/// owned shard.
pub(super) struct LayerState<D: Device> {
    pub layout: LayerLayout,
    /// Elements of the layer that `weights` holds.
    here: Range<usize>,
    pub weights: D::Buffer,
    exp_avg: D::Buffer,
    exp_avg_sq: D::Buffer,
    /// What this rank updates; empty for a mirror.
    pub owned: Range<usize>,
    /// Weights that an update out of place left undefined.
    gaps: Gaps,
    /// Of the owned elements as the last update left them, if it was told to make them and nothing was written since.
    pub digests: Option<ChunkDigests>,
}

impl<D: Device> LayerState<D> {
    /// `shard` is (lanes, lane), or None for a mirror, which owns nothing.
    pub fn new(device: &D, layout: LayerLayout, shard: Option<(u32, u32)>) -> Result<Self> {
        let owned = shard.map_or(0..0, |(lanes, lane)| shard_range(layout.numel(), lanes, lane));
        let all = 0..layout.numel();
        Self::holding(device, layout, all, owned)
    }

    /// The owned shard alone; without its weights where those aren't wanted.
    pub fn of_shard(
        device: &D,
        layout: LayerLayout,
        (lanes, lane): (u32, u32),
        weights: bool,
    ) -> Result<Self> {
        let owned = shard_range(layout.numel(), lanes, lane);
        let here = if weights { owned.clone() } else { 0..0 };
        Self::holding(device, layout, here, owned)
    }

    fn holding(device: &D, layout: LayerLayout, here: Range<usize>, owned: Range<usize>) -> Result<Self> {
        Ok(Self {
            weights: device.alloc_weights(here.len())?,
            here,
            exp_avg: device.alloc_state(owned.len())?,
            exp_avg_sq: device.alloc_state(owned.len())?,
            layout,
            owned,
            gaps: Gaps::default(),
            digests: None,
        })
    }

    /// The part of the flat buffer from the tensor named `first` to the one named `last`.
    pub fn range(&self, first: &str, last: &str) -> Range<usize> {
        let find = |name: &str| self.layout.tensor(name).map_or(0..0, |t| t.range());
        find(first).start..find(last).end
    }

    pub fn init(&mut self, device: &D, seed: u64, config: &ModelConfig) -> Result<()> {
        self.digests = None;
        for (index, spec) in self.layout.tensors.iter().enumerate() {
            let values = init::tensor(seed, self.layout.layer, index, spec, config.initializer_range);
            let values: Vec<D::Float> = values.into_iter().map(rekindle_compute::Float::of_f32).collect();
            device.write(part_mut(&mut self.weights, spec.range()), &values)?;
        }
        let zeroes = vec![<D::Float as rekindle_compute::Float>::ZERO; self.owned.len()];
        device.write(part_mut(&mut self.exp_avg, 0..self.owned.len()), &zeroes)?;
        device.write(part_mut(&mut self.exp_avg_sq, 0..self.owned.len()), &zeroes)?;
        Ok(())
    }

    /// The elements of a kind that are here.
    pub fn held(&self, kind: StateKind) -> Range<usize> {
        match kind {
            StateKind::Weights => self.here.clone(),
            StateKind::ExpAvg | StateKind::ExpAvgSq => self.owned.clone(),
        }
    }

    /// The kinds of which the owned part is here.
    pub fn kinds(&self) -> &'static [StateKind] {
        match self.here.is_empty() {
            true => &[StateKind::ExpAvg, StateKind::ExpAvgSq],
            false => &StateKind::ALL,
        }
    }

    /// The buffer of a kind and the place of `range` in it, refused when this rank doesn't hold that.
    pub fn locate(&self, kind: StateKind, range: &Range<usize>) -> Result<(&D::Buffer, Range<usize>)> {
        let held = self.held(kind);
        check(self.layout.layer, range, &held)?;
        if kind == StateKind::Weights {
            self.has(range)?;
        }
        let buffer = match kind {
            StateKind::Weights => &self.weights,
            StateKind::ExpAvg => &self.exp_avg,
            StateKind::ExpAvgSq => &self.exp_avg_sq,
        };
        Ok((buffer, range.start - held.start..range.end - held.start))
    }

    fn has(&self, range: &Range<usize>) -> Result<()> {
        match self.gaps.within(range) {
            None => Ok(()),
            Some(Range { start, end }) => {
                let layer = self.layout.layer;
                Err(EngineError::Incomplete { layer, start, end })
            }
        }
    }

    /// Refuses weights that aren't all there.
    pub fn complete(&self) -> Result<()> {
        self.has(&self.here)
    }

    /// Elements of the buffers an update out of place needs.
    pub fn spare_lens(&self) -> [usize; 3] {
        match self.owned.len() {
            0 => [0; 3],
            owned => [self.here.len(), owned, owned],
        }
    }

    /// Elements `range` of a kind were written.
    pub fn written(&mut self, kind: StateKind, range: &Range<usize>) {
        if kind == StateKind::Weights {
            self.gaps.fill(range);
        }
    }

    /// As [`LayerState::locate`], to be written; report the write with [`LayerState::written`]. Digests of what may
    /// change are forgotten here, so that a write that fails half-way leaves none behind.
    pub fn locate_mut(
        &mut self,
        kind: StateKind,
        range: &Range<usize>,
    ) -> Result<(&mut D::Buffer, Range<usize>)> {
        let held = self.held(kind);
        check(self.layout.layer, range, &held)?;
        if range.start < self.owned.end && range.end > self.owned.start {
            self.digests = None;
        }
        let buffer = match kind {
            StateKind::Weights => &mut self.weights,
            StateKind::ExpAvg => &mut self.exp_avg,
            StateKind::ExpAvgSq => &mut self.exp_avg_sq,
        };
        Ok((buffer, range.start - held.start..range.end - held.start))
    }

    /// Makes the three buffers writable for an update. What comes back holds the values the update starts from, see
    /// [`Device::thaw`].
    pub fn thaw(&mut self, device: &D, patience: Duration) -> Result<Before<D>> {
        if self.owned.is_empty() {
            return Ok(Before([None, None, None]));
        }
        let buffers = [&mut self.weights, &mut self.exp_avg, &mut self.exp_avg_sq];
        let before = Before(device.thaw(buffers, patience)?);
        if before.0[0].is_some() && self.here != self.owned && !self.here.is_empty() {
            self.gaps = Gaps::around(&self.owned, self.layout.numel());
        }
        Ok(before)
    }

    /// The owned part of each tensor.
    fn parts(&self, optimizer: &AdamW) -> Vec<AdamPart> {
        let Range { start, end } = self.owned;
        let tensors = self.layout.tensors.iter();
        tensors
            .filter(|spec| spec.range().end > start && spec.range().start < end)
            .map(|spec| AdamPart {
                end: spec.range().end.min(end) - start,
                weight_decay: if spec.is_matrix() {
                    optimizer.weight_decay
                } else {
                    0.0
                },
            })
            .collect()
    }

    /// The operands of an update: all that is owned.
    fn operands<'a>(
        &'a mut self,
        before: &'a Before<D>,
    ) -> (AdamTarget<'a, D::Buffer>, AdamSource<'a, D::Buffer>) {
        let Range { start, end } = self.owned;
        let local = 0..end - start;
        let weights = match self.here.is_empty() {
            true => 0..0,
            false => start - self.here.start..end - self.here.start,
        };
        let source = before.source(&weights, &local);
        let target = AdamTarget {
            weights: part_mut(&mut self.weights, weights),
            exp_avg: part_mut(&mut self.exp_avg, local.clone()),
            exp_avg_sq: part_mut(&mut self.exp_avg_sq, local),
        };
        (target, source)
    }

    /// AdamW as [`LayerState::update`], with the mean gradient of the owned shard.
    pub fn update_with(
        &mut self,
        device: &D,
        before: &Before<D>,
        gradient: &[D::Float],
        optimizer: &AdamW,
        step: &AdamStep,
    ) -> Result<()> {
        let parts = self.parts(optimizer);
        self.digests = None;
        let (target, source) = self.operands(before);
        Ok(device.adamw_with(target, source, gradient, step, &parts)?)
    }

    /// AdamW on the owned shard (weight decay is for matrices only), with the sums of the whole layer. With `hash`,
    /// the digests of what it leaves are kept, if the device makes hashes.
    pub fn update(
        &mut self,
        device: &D,
        before: &Before<D>,
        sums: &mut D::Sums,
        optimizer: &AdamW,
        step: &AdamStep,
        hash: bool,
    ) -> Result<()> {
        let Range { start, end } = self.owned;
        let parts = self.parts(optimizer);
        let layer = self.layout.layer;
        // Shards begin at a block, so blocks counted from the shard's start are the layer's.
        let mut blocks = Blocks::new(if hash { end - start } else { 0 });
        let digest = |kind: usize, block: usize, bytes: &[u8]| {
            let (kind, element) = (StateKind::ALL[kind], size_of::<D::Float>());
            StateDigest::of_blocks(layer, kind, start / BLOCK + block, bytes, element).0
        };
        let hashing = hash.then(|| blocks.hashing(&digest));
        self.digests = None;
        let (target, source) = self.operands(before);
        if device.adamw(target, source, sums, start..end, step, &parts, hashing)? {
            self.digests = Some(blocks.by_chunk(end - start));
        }
        Ok(())
    }

    /// Digest of the owned blocks of all three kinds.
    pub fn digest(&self, device: &D) -> Result<StateDigest> {
        let mut digest = StateDigest::default();
        for kind in self.kinds() {
            let (buffer, range) = self.locate(*kind, &self.owned)?;
            let bytes = device.bytes(part(buffer, range))?;
            let first = self.owned.start / BLOCK;
            digest = digest.add(StateDigest::of_blocks(
                self.layout.layer,
                *kind,
                first,
                &bytes,
                size_of::<D::Float>(),
            ));
        }
        Ok(digest)
    }

    /// Bytes of (weights, moments).
    pub fn memory(&self, element: ElementBytes) -> (u64, u64) {
        (
            (self.here.len() * element.weights) as u64,
            (2 * self.owned.len() * element.wide) as u64,
        )
    }
}

/// The buffers that [`LayerState::thaw`] replaced: weights, first and second moments.
pub(super) struct Before<D: Device>([Option<D::Buffer>; 3]);

impl<D: Device> Before<D> {
    /// `range` of the weights, `local` of the moments.
    fn source(&self, range: &Range<usize>, local: &Range<usize>) -> AdamSource<'_, D::Buffer> {
        let [weights, exp_avg, exp_avg_sq] = self.0.each_ref();
        AdamSource {
            weights: weights.as_ref().map(|buffer| part(buffer, range.clone())),
            exp_avg: exp_avg.as_ref().map(|buffer| part(buffer, local.clone())),
            exp_avg_sq: exp_avg_sq.as_ref().map(|buffer| part(buffer, local.clone())),
        }
    }
}
