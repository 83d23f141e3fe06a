//! State that is saved while training goes on: taken hold of without a copy, and the memory that updates may use
//! meanwhile.
//!
//! ```text
//!   update of step s, weights of the other lanes taken
//!   freeze_state()      handles on the owned parts; a writer reads them from its own threads
//!   forward, backward of step s+1 read the same buffers
//!   update of step s+1  layer by layer: in place where the handles are gone, else into spare buffers, else waits for this layer's handles
//! ```
//!
//! With several lanes a layer's weights are all here, but only the owned part is updated and saved. An update out of
//! place leaves the other lanes' parts of the spare buffer undefined. They are all set before anything reads them:
//! `Trainer::update` (the only caller) takes every other lane's part before the step ends, and the owner of a tied
//! matrix sends it to its mirror after that. Until they are, reading them is refused
//! ([`super::EngineError::Incomplete`]). A mirror and a layer of which this rank owns nothing are never frozen, so
//! they never change places.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rekindle_compute::Device;
use rekindle_types::LayerId;

use super::state::LayerState;
use super::{Result, Stage};
use crate::{StateDigest, StateKind};

/// How long an update waits for its layer's handles unless told otherwise: longer than a checkpoint's writer tries.
pub(super) const PATIENCE: Duration = Duration::from_secs(900);

/// A part of a stage's state as of one moment.
pub struct FrozenPart<D: Device> {
    /// The layer.
    pub layer: LayerId,
    /// What of it.
    pub kind: StateKind,
    /// Which elements of the layer's flat buffer: what this rank owns.
    pub range: Range<usize>,
    /// Their bytes. Dropping it lets the next update run in place.
    pub frozen: D::Frozen,
    /// The digest of each chunk of them (see [`rekindle_types::Section`]), if the last update made them
    /// ([`Stage::set_hashing`]).
    pub digests: Option<Arc<[StateDigest]>>,
}

impl<D: Device> LayerState<D> {
    /// Takes hold of a part, without its digests.
    pub(super) fn freeze(
        &self,
        device: &D,
        layer: LayerId,
        kind: StateKind,
        range: Range<usize>,
    ) -> Result<FrozenPart<D>> {
        let (buffer, place) = self.locate(kind, &range)?;
        let frozen = device.freeze(buffer, place)?;
        Ok(FrozenPart {
            layer,
            kind,
            range,
            frozen,
            digests: None,
        })
    }
}

impl<D: Device> Stage<D> {
    /// Takes hold of everything this rank owns: weights and moments of each layer in pipeline order, mirrors and
    /// empty parts left out. Copies nothing. Call it between the end of an update (the other lanes' weights taken)
    /// and the next one.
    ///
    /// # Errors
    /// [`super::EngineError::Incomplete`] when the other lanes' weights aren't all here yet.
    pub fn freeze_state(&self) -> Result<Vec<FrozenPart<D>>> {
        let mut parts = Vec::with_capacity(StateKind::ALL.len() * self.ids.len());
        for &layer in &self.ids {
            let state = self.state(layer)?;
            state.complete()?;
            for (n, kind) in StateKind::ALL.into_iter().enumerate() {
                if state.owned.is_empty() {
                    continue;
                }
                let (buffer, place) = state.locate(kind, &state.owned)?;
                parts.push(FrozenPart {
                    layer,
                    kind,
                    range: state.owned.clone(),
                    frozen: self.device.freeze(buffer, place)?,
                    digests: state.digests.as_ref().map(|kinds| Arc::clone(&kinds[n])),
                });
            }
        }
        Ok(parts)
    }

    /// Takes hold of everything this rank holds of layers that it owns a part of, the other lanes' weights included;
    /// a mirror is left out. Otherwise as [`Stage::freeze_state`].
    ///
    /// # Errors
    /// As [`Stage::freeze_state`].
    pub fn freeze_whole(&self) -> Result<Vec<FrozenPart<D>>> {
        let mut parts = Vec::with_capacity(StateKind::ALL.len() * self.ids.len());
        for &layer in &self.ids {
            let state = self.state(layer)?;
            state.complete()?;
            for kind in StateKind::ALL.into_iter().filter(|_| !state.owned.is_empty()) {
                parts.push(state.freeze(&*self.device, layer, kind, state.held(kind))?);
            }
        }
        Ok(parts)
    }

    /// Reserves one spare for every buffer that updates replace, so that the state before an update can be held
    /// through it.
    ///
    /// # Errors
    /// When the device has no such memory.
    pub fn reserve_whole(&mut self) -> Result<()> {
        let mut lens = Vec::new();
        for &layer in &self.ids {
            lens.extend(self.state(layer)?.spare_lens().into_iter().filter(|len| *len > 0));
        }
        Ok(self.device.reserve_spares(&lens)?)
    }

    /// Reserves spare buffers of at most `pool_bytes` for updates of frozen layers; nothing is allocated for that
    /// later. Returns the bytes reserved.
    ///
    /// A layer is updated out of place only when all three of its buffers have spares, so whole layers are reserved
    /// for, and from the last one of the pipeline to the first: layers are written in pipeline order, so those at the
    /// end are the ones still frozen when a slow store is not done by the next update. A layer that doesn't fit any
    /// more is passed over for smaller ones before it. Spares serve every layer of the same size.
    ///
    /// # Errors
    /// When the device has no such memory.
    pub fn reserve_for_checkpoints(&mut self, pool_bytes: u64) -> Result<u64> {
        let layers: Vec<[usize; 3]> = self
            .ids
            .iter()
            .map(|&layer| Ok(self.state(layer)?.spare_lens()))
            .collect::<Result<_>>()?;
        let element = size_of::<D::Float>() as u64;
        let lens = spares(&layers, pool_bytes / element);
        self.device.reserve_spares(&lens)?;
        Ok(lens.iter().map(|len| *len as u64 * element).sum())
    }

    /// Whether the updates from now on make digests of what they leave, for [`Stage::freeze_state`]: state is hashed
    /// while it is in the cache, by all threads, which costs a fraction of what it costs a checkpoint's writer later.
    /// Switch it on for the update of a step that is saved.
    pub fn set_hashing(&mut self, on: bool) {
        self.hashing = on;
    }

    /// How long updates have waited for frozen layers since the last call.
    pub fn take_update_wait(&mut self) -> Duration {
        std::mem::take(&mut self.update_wait)
    }

    /// Sets how long an update waits for its layer's handles before it fails with
    /// [`rekindle_compute::ComputeError::StillFrozen`] (15 minutes unless set). An update that failed so has changed
    /// nothing and can be called again, for instance after the checkpoint was dropped.
    pub fn set_update_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }
}

/// Lengths of the spares that fit into `elements`, for layers in pipeline order; see
/// [`Stage::reserve_for_checkpoints`].
fn spares(layers: &[[usize; 3]], elements: u64) -> Vec<usize> {
    let mut left = elements;
    let mut lens = Vec::new();
    for layer in layers.iter().rev() {
        let size = layer.iter().map(|len| *len as u64).sum::<u64>();
        if size <= left {
            left -= size;
            lens.extend(layer.iter().filter(|len| **len > 0));
        }
    }
    lens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_layers_get_spares_first() {
        let layers = [[10, 10, 10], [5, 5, 5], [5, 5, 5], [20, 20, 20]];
        assert_eq!(spares(&layers, 0), [0; 0]);
        assert_eq!(spares(&layers, 59), [5, 5, 5, 5, 5, 5]);
        assert_eq!(spares(&layers, 60), [20, 20, 20]);
        assert_eq!(spares(&layers, 75), [20, 20, 20, 5, 5, 5]);
        assert_eq!(spares(&layers, u64::MAX).iter().sum::<usize>(), 120);
        assert_eq!(spares(&[[7, 0, 0]], 7), [7]);
    }
}
