//! State of a stage as ranges of flat buffers: weights, moments, gradients, digests.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rekindle_compute::{Device, Float, part, part_mut};
use rekindle_types::LayerId;

use super::slots::BlockSlot;
use super::{GradientSummary, GradientSums, MemoryReport, Result, Stage, StageSpec};
use crate::{StateDigest, StateKind};

impl<D: Device> Stage<D> {
    /// What this stage was made of.
    #[must_use]
    pub fn spec(&self) -> &StageSpec {
        &self.spec
    }

    /// What it computes on.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The layers in pipeline order, a mirror not among them.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerId> {
        self.ids.clone()
    }

    /// Whether this stage has a tied head without the embedding: then `LayerId::Embed` names the mirror in calls
    /// about weights and gradients.
    #[must_use]
    pub fn holds_mirror(&self) -> bool {
        self.mirror
    }

    /// The elements of `layer` that this rank updates. Empty for a mirror.
    ///
    /// # Errors
    /// When the layer isn't here.
    pub fn owned(&self, layer: LayerId) -> Result<Range<usize>> {
        Ok(self.state(layer)?.owned.clone())
    }

    /// Fresh weights: a function of (seed, layer, tensor, element). Moments become zero.
    ///
    /// # Errors
    /// When the device fails.
    pub fn init_weights(&mut self, seed: u64) -> Result<()> {
        for state in self.states.values_mut() {
            state.init(&*self.device, seed, &self.spec.model)?;
        }
        Ok(())
    }

    /// Sets elements `offset..` of a layer's weights or moments. Moments: within the owned shard only.
    ///
    /// # Errors
    /// When the layer or the range isn't here.
    pub fn import(&mut self, layer: LayerId, kind: StateKind, offset: usize, values: &[f32]) -> Result<()> {
        let values: Vec<D::Float> = values.iter().map(|&v| D::Float::of_f32(v)).collect();
        let (device, range) = (Arc::clone(&self.device), offset..offset + values.len());
        let state = self.state_mut(layer)?;
        let (buffer, place) = state.locate_mut(kind, &range)?;
        device.write(part_mut(buffer, place), &values)?;
        state.written(kind, &range);
        Ok(())
    }

    /// Elements of a layer's weights or moments. Moments: within the owned shard only.
    ///
    /// # Errors
    /// When the layer or the range isn't here.
    pub fn export(&self, layer: LayerId, kind: StateKind, range: Range<usize>) -> Result<Vec<f32>> {
        let (buffer, place) = self.state(layer)?.locate(kind, &range)?;
        Ok(self
            .device
            .read(part(buffer, place))?
            .iter()
            .map(|v| v.f32())
            .collect())
    }

    /// The bytes of weights or moments in native (little-endian) order. On a CPU they are borrowed, not copied.
    ///
    /// # Errors
    /// When the layer or the range isn't here.
    pub fn state_bytes(&self, layer: LayerId, kind: StateKind, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let (buffer, place) = self.state(layer)?.locate(kind, &range)?;
        Ok(self.device.bytes(part(buffer, place))?)
    }

    /// Overwrites weights or moments with [`Stage::state_bytes`] of another rank.
    ///
    /// # Errors
    /// When the layer or the range isn't here, or the length doesn't fit.
    pub fn set_state_bytes(
        &mut self,
        layer: LayerId,
        kind: StateKind,
        range: Range<usize>,
        bytes: &[u8],
    ) -> Result<()> {
        let device = Arc::clone(&self.device);
        let state = self.state_mut(layer)?;
        let (buffer, place) = state.locate_mut(kind, &range)?;
        device.write_bytes(part_mut(buffer, place), bytes)?;
        state.written(kind, &range);
        Ok(())
    }

    /// The bytes of weights, see [`Stage::state_bytes`].
    ///
    /// # Errors
    /// When the layer or the range isn't here.
    pub fn weight_bytes(&self, layer: LayerId, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        self.state_bytes(layer, StateKind::Weights, range)
    }

    /// Overwrites weights, see [`Stage::set_state_bytes`].
    ///
    /// # Errors
    /// When the layer or the range isn't here, or the length doesn't fit.
    pub fn set_weight_bytes(&mut self, layer: LayerId, range: Range<usize>, bytes: &[u8]) -> Result<()> {
        self.set_state_bytes(layer, StateKind::Weights, range, bytes)
    }

    /// The gradient sums, which `backward` also hands to its callback.
    #[must_use]
    pub fn gradients(&self) -> &GradientSums<D> {
        &self.gradients
    }

    /// The gradient sums, to add other ranks' to.
    #[must_use]
    pub fn gradients_mut(&mut self) -> &mut GradientSums<D> {
        &mut self.gradients
    }

    /// See [`GradientSums::bytes`].
    ///
    /// # Errors
    /// When the layer or the range isn't here.
    pub fn gradient_bytes(&self, layer: LayerId, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        self.gradients.bytes(layer, range)
    }

    /// See [`GradientSums::add_bytes`].
    ///
    /// # Errors
    /// When the layer or the range isn't here, or the length doesn't fit.
    pub fn add_gradient_bytes(&mut self, layer: LayerId, range: Range<usize>, bytes: &[u8]) -> Result<()> {
        self.gradients.add_bytes(layer, range, bytes)
    }

    /// What this rank adds to the gradient norm, once its shards hold the sums of all lanes (and of the mirror).
    ///
    /// # Errors
    /// When the device fails.
    pub fn finish_gradients(&mut self) -> Result<GradientSummary> {
        self.gradients.summary()
    }

    /// AdamW on the owned shard of a layer, then clears the layer's sums (with the head: the mirror's, too). `step`
    /// counts from 1; `clip` = min(1, max_norm / (norm + 1e-6)). A layer that is frozen ([`Stage::freeze_state`]) is
    /// updated into spare buffers, with the same result, or waited for.
    ///
    /// # Errors
    /// When the layer isn't here, or stays frozen too long ([`Stage::set_update_patience`]).
    pub fn update(&mut self, layer: LayerId, step: u64, lr: f64, clip: f64) -> Result<()> {
        let optimizer = self.spec.optimizer;
        let numbers = optimizer.numbers(self.spec.tokens_per_step, (step, lr, clip));
        let state = self
            .states
            .get_mut(&layer)
            .ok_or(super::EngineError::Layer { layer })?;
        let began = Instant::now();
        let before = state.thaw(&*self.device, self.patience);
        self.update_wait += began.elapsed();
        let hash = self.hashing;
        let (device, sums) = self.gradients.sums(layer)?;
        state.update(device, &before?, sums, &optimizer, &numbers, hash)?;
        self.gradients.clear_rest(layer)?;
        if layer == LayerId::Head && self.mirror {
            self.gradients.clear_rest(LayerId::Embed)?;
        }
        Ok(())
    }

    /// Drops the step: gradient sums and everything in flight.
    ///
    /// # Errors
    /// When the device fails.
    pub fn discard_gradients(&mut self) -> Result<()> {
        self.slots.release_all();
        self.gradients.clear_all()
    }

    /// Digest of the owned shards' weights and moments. Digests of all ranks add up to that of the model.
    ///
    /// # Errors
    /// When the device fails.
    pub fn digest(&self) -> Result<StateDigest> {
        self.ids.iter().try_fold(StateDigest::default(), |sum, &layer| {
            Ok(sum.add(self.state(layer)?.digest(&*self.device)?))
        })
    }

    /// Bytes held, by use.
    #[must_use]
    pub fn memory(&self) -> MemoryReport {
        let element = self.device.element_bytes();
        let at_work = self.at_work.len() * BlockSlot::<D>::bytes(&self.widths, element);
        let (weights, moments) = self
            .states
            .values()
            .map(|s| s.memory(element))
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        MemoryReport {
            weights,
            moments,
            gradients: self.gradients.memory(),
            activations: self.slots.bytes(&self.widths, element) as u64,
            scratch: (self.scratch.bytes() + at_work) as u64,
        }
    }
}
