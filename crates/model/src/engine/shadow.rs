//! A shadow: the state that another rank owns, kept in step with it by the same updates and nothing else.
//!
//! ```text
//!   set_state_bytes(layer, kind, ..)        once: the other rank's state
//!   update(clip, gradients and rates)       each step, with its GradientSums::write_mean: the same bits as its own AdamW (MO-5)
//!   freeze_state()                          as of a stage
//! ```
//!
//! The gradient travels as the floats that the update would have made of the sums, so nothing is rounded twice, and
//! is read where it lies. A shadow has no pipeline: it can't compute gradients. Layers of which the other rank owns
//! nothing aren't here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rekindle_compute::{Device, part, part_mut};
use rekindle_types::LayerId;

use super::state::LayerState;
use super::train::expect;
use super::{EngineError, FrozenPart, Result, StageSpec, freeze};
use crate::{StateDigest, StateKind};

/// What a layer's update takes.
#[derive(Debug, Clone, Copy)]
pub struct LayerStep<'a, F> {
    /// The other rank's [`super::GradientSums::write_mean`].
    pub gradient: &'a [F],
    /// Steps that the layer's Adam has made by then.
    pub count: u64,
    /// Learning rate.
    pub lr: f64,
}

/// The state of another rank, see the module.
pub struct Shadow<D: Device> {
    device: Arc<D>,
    spec: StageSpec,
    /// What the other rank owns of each layer.
    shards: BTreeMap<LayerId, LayerState<D>>,
    patience: Duration,
}

impl<D: Device> Shadow<D> {
    /// A shadow of the rank that has a stage of this spec, with state that is all zero; without `weights` of the
    /// moments alone.
    ///
    /// # Errors
    /// [`EngineError::Spec`] naming what is impossible, or the device's error.
    pub fn new(device: Arc<D>, spec: StageSpec, weights: bool) -> Result<Self> {
        spec.validate()?;
        let mut shards = BTreeMap::new();
        for layer in spec.layer_ids() {
            let (layout, shard) = (spec.model.layout(layer), (spec.lanes, spec.lane));
            let state = LayerState::of_shard(&*device, layout, shard, weights)?;
            if !state.owned.is_empty() {
                shards.insert(layer, state);
            }
        }
        Ok(Self {
            device,
            spec,
            shards,
            patience: freeze::PATIENCE,
        })
    }

    /// The layers of which there is something, with the elements that are here (the same of weights, if any, and
    /// moments), in pipeline order.
    #[must_use]
    pub fn layers(&self) -> Vec<(LayerId, Range<usize>)> {
        let ids = self.spec.layer_ids().into_iter();
        let here = |id| Some((id, self.shards.get(&id)?.owned.clone()));
        ids.filter_map(here).collect()
    }

    fn shard(&self, layer: LayerId) -> Result<&LayerState<D>> {
        self.shards.get(&layer).ok_or(EngineError::Layer { layer })
    }

    fn shard_mut(&mut self, layer: LayerId) -> Result<&mut LayerState<D>> {
        self.shards.get_mut(&layer).ok_or(EngineError::Layer { layer })
    }

    /// Overwrites weights or moments with [`super::Stage::state_bytes`] of the other rank.
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
        let (buffer, place) = self.shard_mut(layer)?.locate_mut(kind, &range)?;
        Ok(device.write_bytes(part_mut(buffer, place), bytes)?)
    }

    /// Elements' bytes in native (little-endian) order.
    ///
    /// # Errors
    /// When the layer or the range isn't here.
    pub fn state_bytes(&self, layer: LayerId, kind: StateKind, range: Range<usize>) -> Result<Vec<u8>> {
        let (buffer, place) = self.shard(layer)?.locate(kind, &range)?;
        Ok(self.device.bytes(part(buffer, place))?.into_owned())
    }

    /// AdamW as [`super::Stage::update`] does it, on all layers, with what `of` gives for each.
    ///
    /// # Errors
    /// Before anything is changed: [`EngineError::NoGradient`] when there is nothing of a layer,
    /// [`EngineError::Input`] when the length of its gradient doesn't fit.
    pub fn update<'a>(
        &mut self,
        clip: f64,
        of: &dyn Fn(LayerId) -> Option<LayerStep<'a, D::Float>>,
    ) -> Result<()> {
        let mut steps = Vec::with_capacity(self.shards.len());
        for (&layer, state) in &self.shards {
            let step = of(layer).ok_or(EngineError::NoGradient { layer })?;
            expect("gradient of a layer", step.gradient.len(), state.owned.len())?;
            steps.push(step);
        }
        let optimizer = self.spec.optimizer;
        for (state, LayerStep { gradient, count, lr }) in self.shards.values_mut().zip(steps) {
            // The gradient is divided by the tokens already.
            let numbers = optimizer.numbers(1, (count, lr, clip));
            let before = state.thaw(&*self.device, self.patience)?;
            state.update_with(&*self.device, &before, gradient, &optimizer, &numbers)?;
        }
        Ok(())
    }

    /// Takes hold of everything, as [`super::Stage::freeze_state`].
    ///
    /// # Errors
    /// When the device fails.
    pub fn freeze_state(&self) -> Result<Vec<FrozenPart<D>>> {
        let mut parts = Vec::with_capacity(StateKind::ALL.len() * self.shards.len());
        for (layer, range) in self.layers() {
            let state = self.shard(layer)?;
            for kind in state.kinds() {
                parts.push(state.freeze(&*self.device, layer, *kind, range.clone())?);
            }
        }
        Ok(parts)
    }

    /// Reserves one spare for every buffer, so that the state before an update can be held through it.
    ///
    /// # Errors
    /// When the device has no such memory.
    pub fn reserve_whole(&mut self) -> Result<()> {
        let lens = self.shards.values().flat_map(LayerState::spare_lens);
        Ok(self.device.reserve_spares(&lens.collect::<Vec<_>>())?)
    }

    /// Digest of all that is here: that of the other rank's stage.
    ///
    /// # Errors
    /// When the device fails.
    pub fn digest(&self) -> Result<StateDigest> {
        self.shards
            .values()
            .try_fold(StateDigest::default(), |sum, shard| {
                Ok(sum.add(shard.digest(&*self.device)?))
            })
    }
}
