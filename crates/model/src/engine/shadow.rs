//! A shadow: the state that another rank owns, kept in step with it by the same updates and nothing else.
//!
//! ```text
//!   set_state_bytes(layer, kind, ..)        once: the other rank's state
//!   set_gradient(layer, bytes)              each step: its Stage::final_gradient
//!   update(step, lr, clip)                  AdamW, the same bits as the other rank's own (MO-5)
//!   freeze_state()                          as of a stage
//! ```
//!
//! The gradient travels as the floats that the update would have made of the sums, so nothing is rounded twice. A shadow has no pipeline: it
//! can't compute gradients. Layers of which the other rank owns nothing aren't here. In `fast` numerics the sign of a gradient that is zero
//! may be lost, which the update can't show unless the moment is zero, too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rekindle_compute::{Device, SumKind, part, part_mut};
use rekindle_types::LayerId;

use super::state::LayerState;
use super::{EngineError, FrozenPart, Result, StageSpec, freeze};
use crate::{StateDigest, StateKind};

struct Shard<D: Device> {
    state: LayerState<D>,
    /// The gradient of the owned shard.
    gradient: D::Sums,
}

/// The state of another rank, see the module.
pub struct Shadow<D: Device> {
    device: Arc<D>,
    spec: StageSpec,
    shards: BTreeMap<LayerId, Shard<D>>,
    /// Layers whose gradient has come.
    fed: BTreeSet<LayerId>,
    patience: Duration,
}

impl<D: Device> Shadow<D> {
    /// A shadow of the rank that has a stage of this spec, with state that is all zero.
    ///
    /// # Errors
    /// [`EngineError::Spec`] naming what is impossible, or the device's error.
    pub fn new(device: Arc<D>, spec: StageSpec) -> Result<Self> {
        spec.validate()?;
        let mut shards = BTreeMap::new();
        for layer in spec.layer_ids() {
            let state = LayerState::of_shard(&*device, spec.model.layout(layer), (spec.lanes, spec.lane))?;
            if !state.owned.is_empty() {
                let gradient = device.alloc_sums(SumKind::Float, state.owned.len())?;
                shards.insert(layer, Shard { state, gradient });
            }
        }
        Ok(Self {
            device,
            spec,
            shards,
            fed: BTreeSet::new(),
            patience: freeze::PATIENCE,
        })
    }

    /// The layers of which there is something, with the elements that are here (the same of weights and moments), in pipeline order.
    #[must_use]
    pub fn layers(&self) -> Vec<(LayerId, Range<usize>)> {
        let ids = self.spec.layer_ids().into_iter();
        let here = |id| Some((id, self.shards.get(&id)?.state.owned.clone()));
        ids.filter_map(here).collect()
    }

    fn shard(&self, layer: LayerId) -> Result<&Shard<D>> {
        self.shards.get(&layer).ok_or(EngineError::Layer { layer })
    }

    fn shard_mut(&mut self, layer: LayerId) -> Result<&mut Shard<D>> {
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
        let (buffer, place) = self.shard_mut(layer)?.state.locate_mut(kind, &range)?;
        Ok(device.write_bytes(part_mut(buffer, place), bytes)?)
    }

    /// Elements' bytes in native (little-endian) order.
    ///
    /// # Errors
    /// When the layer or the range isn't here.
    pub fn state_bytes(&self, layer: LayerId, kind: StateKind, range: Range<usize>) -> Result<Vec<u8>> {
        let (buffer, place) = self.shard(layer)?.state.locate(kind, &range)?;
        Ok(self.device.bytes(part(buffer, place))?.into_owned())
    }

    /// Takes a layer's gradient of the step in flight, the bytes of [`super::Stage::final_gradient`]; one that came before is dropped.
    ///
    /// # Errors
    /// When the layer isn't here, or the length doesn't fit.
    pub fn set_gradient(&mut self, layer: LayerId, bytes: &[u8]) -> Result<()> {
        let device = Arc::clone(&self.device);
        self.fed.remove(&layer);
        let shard = self.shard_mut(layer)?;
        let all = 0..shard.state.owned.len();
        device.clear(&mut shard.gradient, all.clone())?;
        device.add_sums_bytes(&mut shard.gradient, all, bytes)?;
        self.fed.insert(layer);
        Ok(())
    }

    /// AdamW as [`super::Stage::update`] does it, on all layers, each with the number of steps that its Adam has made by then, and its learning
    /// rate. Uses up the gradients.
    ///
    /// # Errors
    /// [`EngineError::NoGradient`], before anything is changed, when a layer's gradient hasn't come.
    pub fn update(&mut self, rate: impl Fn(LayerId) -> (u64, f64), clip: f64) -> Result<()> {
        if let Some(&layer) = self.shards.keys().find(|layer| !self.fed.contains(layer)) {
            return Err(EngineError::NoGradient { layer });
        }
        let optimizer = self.spec.optimizer;
        for (layer, shard) in &mut self.shards {
            let (step, lr) = rate(*layer);
            // The gradient is divided by the tokens already.
            let numbers = optimizer.numbers(1, (step, lr, clip));
            self.fed.remove(layer);
            let (device, from) = (&*self.device, shard.state.owned.start);
            let before = shard.state.thaw(device, self.patience)?;
            shard.state.update(
                device,
                &before,
                (&mut shard.gradient, from),
                &optimizer,
                &numbers,
                false,
            )?;
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
            for kind in StateKind::ALL {
                let state = &self.shard(layer)?.state;
                parts.push(state.freeze(&*self.device, layer, kind, range.clone())?);
            }
        }
        Ok(parts)
    }

    /// Reserves one spare for every buffer, so that the state before an update can be held through it.
    ///
    /// # Errors
    /// When the device has no such memory.
    pub fn reserve_whole(&mut self) -> Result<()> {
        let lens = self.shards.values().flat_map(|shard| shard.state.spare_lens());
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
                Ok(sum.add(shard.state.digest(&*self.device)?))
            })
    }
}
