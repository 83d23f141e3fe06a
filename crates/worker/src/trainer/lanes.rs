//! Data parallelism over the lanes of a stage: interleaved ZeRO-1 (Rajbhandari et al. 2020, section 5.1; rank d owns
//! part d of every layer).
//!
//! ```text
//!   layer's gradient is final --send_gradient--> each lane gets the part it owns   (overlaps the rest of the backward)
//!   the others' parts         --add_gradient---> own parts complete                (the same, as far as they are here)
//!   own parts updated         --send_weights, take_weights--> every lane has the layer's new weights
//! ```
//!
//! Invariant
//! - WK-1 A part is added by its owner only, once per lane; the sum is one of integers, so its order doesn't matter.

use rekindle_compute::AnyDevice;
use rekindle_model::GradientSums;
use rekindle_transport::{Tag, TagKind};
use rekindle_types::{LayerId, RankId, shard_range};

use super::context::{Context, SharedTransport};
use super::{Engine, TrainerError};

/// Moves shards between the lanes of this stage.
pub struct Lanes<'a> {
    /// Where this rank stands.
    pub context: &'a Context,
    /// The way to the other lanes.
    pub transport: &'a SharedTransport,
}

impl Lanes<'_> {
    fn part(&self, layer: LayerId, lane: u32) -> std::ops::Range<usize> {
        shard_range(self.context.numel(layer), self.context.plan.lanes, lane)
    }

    fn tag(&self, kind: TagKind, step: u64, layer: LayerId) -> Tag {
        Tag::new(kind, step, self.context.index_of(layer))
    }

    /// Sends every other lane the part of the layer's gradient which that lane owns. `bytes(range)` reads the
    /// accumulators.
    ///
    /// # Errors
    /// [`TrainerError::Transport`] when a lane is lost.
    pub fn send_gradient(
        &self,
        step: u64,
        layer: LayerId,
        bytes: &dyn Fn(std::ops::Range<usize>) -> Result<Vec<u8>, TrainerError>,
    ) -> Result<(), TrainerError> {
        for (lane, id) in self.context.other_lanes() {
            let range = self.part(layer, lane);
            if !range.is_empty() {
                let payload = self.transport.pool().copy_of(&bytes(range)?).into();
                self.transport.send(
                    id,
                    self.tag(TagKind::LayerGrad, step, layer),
                    payload,
                    self.context.deadline(),
                )?;
            }
        }
        Ok(())
    }

    /// Adds what lane `from` sent for this rank's part of `layer`. False: it isn't here yet, and `wait` isn't wanted.
    ///
    /// # Errors
    /// [`TrainerError`] when the lane is lost or its part doesn't fit.
    pub fn add_gradient(
        &self,
        sums: &mut GradientSums<AnyDevice>,
        (step, layer): (u64, LayerId),
        from: RankId,
        wait: bool,
    ) -> Result<bool, TrainerError> {
        let tag = self.tag(TagKind::LayerGrad, step, layer);
        let frame = match wait {
            true => Some(self.transport.recv(from, tag, self.context.deadline())?),
            false => self.transport.try_recv(from, tag)?,
        };
        let Some(frame) = frame else { return Ok(false) };
        sums.add_bytes(layer, self.part(layer, self.context.rank.lane), frame.bytes())?;
        Ok(true)
    }

    /// Sends this rank's updated part of `layer` to every other lane.
    ///
    /// # Errors
    /// [`TrainerError::Transport`] when a lane is lost.
    pub fn send_weights(&self, engine: &Engine, step: u64, layer: LayerId) -> Result<(), TrainerError> {
        let own = self.part(layer, self.context.rank.lane);
        if own.is_empty() {
            return Ok(());
        }
        for (_, id) in self.context.other_lanes() {
            let payload = self
                .transport
                .pool()
                .copy_of(&engine.weight_bytes(layer, own.clone())?)
                .into();
            self.transport.send(
                id,
                self.tag(TagKind::LayerWeight, step, layer),
                payload,
                self.context.deadline(),
            )?;
        }
        Ok(())
    }

    /// Takes over the other lanes' updated parts of `layer`.
    ///
    /// # Errors
    /// [`TrainerError`] when a lane is lost or its part doesn't fit.
    pub fn take_weights(&self, engine: &mut Engine, step: u64, layer: LayerId) -> Result<(), TrainerError> {
        for (lane, id) in self.context.other_lanes() {
            let range = self.part(layer, lane);
            if !range.is_empty() {
                let tag = self.tag(TagKind::LayerWeight, step, layer);
                let frame = self.transport.recv(id, tag, self.context.deadline())?;
                engine.set_weight_bytes(layer, range, frame.bytes())?;
            }
        }
        Ok(())
    }
}
