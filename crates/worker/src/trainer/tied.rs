//! A tied embedding that lives at both ends of the pipeline.
//!
//! The first stage owns the matrix and its moments; the last stage holds a mirror to compute with. Each lane's mirror
//! sends its gradient to its own lane's owner, which adds it (integers, so the sum is that of one stage holding
//! both); the owner sends the updated matrix back. The mirror takes it only when it next needs it, so the transfer
//! hides behind the start of the step.

use rekindle_transport::{Tag, TagKind};
use rekindle_types::LayerId;

use super::context::{Context, SharedTransport};
use super::{Engine, TrainerError};

const EMBED: LayerId = LayerId::Embed;

/// Either end of a tied matrix, or neither.
pub struct Tied<'a> {
    /// Where this rank stands.
    pub context: &'a Context,
    /// The way to the other end.
    pub transport: &'a SharedTransport,
}

impl Tied<'_> {
    fn range(&self) -> std::ops::Range<usize> {
        0..self.context.numel(EMBED)
    }

    /// Mirror: sends its finished gradient to the owner. Elsewhere: nothing.
    ///
    /// # Errors
    /// [`TrainerError::Transport`] when the owner is lost.
    pub fn send_gradient(
        &self,
        step: u64,
        bytes: &dyn Fn(std::ops::Range<usize>) -> Result<Vec<u8>, TrainerError>,
    ) -> Result<(), TrainerError> {
        let Some(owner) = self.context.tied_peer().filter(|_| self.context.is_last_stage()) else {
            return Ok(());
        };
        let payload = self.transport.pool().copy_of(&bytes(self.range())?).into();
        Ok(self.transport.send(
            owner,
            Tag::new(TagKind::TiedGrad, step, 0),
            payload,
            self.context.deadline(),
        )?)
    }

    /// Owner: adds the mirror's gradient. Elsewhere: nothing.
    ///
    /// # Errors
    /// [`TrainerError`] when the mirror is lost or its gradient doesn't fit.
    pub fn add_gradient(&self, engine: &mut Engine, step: u64) -> Result<(), TrainerError> {
        let Some(mirror) = self.context.tied_peer().filter(|_| self.context.is_first_stage()) else {
            return Ok(());
        };
        let frame = self.transport.recv(
            mirror,
            Tag::new(TagKind::TiedGrad, step, 0),
            self.context.deadline(),
        )?;
        Ok(engine.add_gradient_bytes(EMBED, self.range(), frame.bytes())?)
    }

    /// Owner: sends the whole updated matrix to the mirror. Elsewhere: nothing.
    ///
    /// # Errors
    /// [`TrainerError::Transport`] when the mirror is lost.
    pub fn send_weights(&self, engine: &Engine, step: u64) -> Result<(), TrainerError> {
        let Some(mirror) = self.context.tied_peer().filter(|_| self.context.is_first_stage()) else {
            return Ok(());
        };
        let payload = self
            .transport
            .pool()
            .copy_of(&engine.weight_bytes(EMBED, self.range())?)
            .into();
        Ok(self.transport.send(
            mirror,
            Tag::new(TagKind::TiedWeight, step, 0),
            payload,
            self.context.deadline(),
        )?)
    }

    /// Mirror: takes over the matrix as of `step`. Elsewhere: nothing.
    ///
    /// # Errors
    /// [`TrainerError`] when the owner is lost or the matrix doesn't fit.
    pub fn take_weights(&self, engine: &mut Engine, step: u64) -> Result<(), TrainerError> {
        let Some(owner) = self.context.tied_peer().filter(|_| self.context.is_last_stage()) else {
            return Ok(());
        };
        let frame = self.transport.recv(
            owner,
            Tag::new(TagKind::TiedWeight, step, 0),
            self.context.deadline(),
        )?;
        Ok(engine.set_weight_bytes(EMBED, self.range(), frame.bytes())?)
    }
}
