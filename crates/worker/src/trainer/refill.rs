//! Ranks whose machine took their state with it get it from the workers of their guards, before the first step of the new epoch.
//!
//! ```text
//!   rank G: the shadow of rank R that lies in its worker's memory  --State-->  rank R: weights and moments of what it owns (of an end of the
//!                                                                              pipeline in a job that swaps: embedding or head)
//!   all lanes: what each owns of the weights to the others, as after an update
//! ```
//!
//! Who sends to whom is the coordinator's decision ([`Context::refills`]). Deliberately absent: states that nobody has ([`super::mean`]).

use rekindle_transport::TagKind;
use rekindle_types::{RankId, Refill as Source};

use super::context::{Context, SharedTransport};
use super::lanes::Lanes;
use super::left::{Memory, Whose};
use super::mean::Means;
use super::parity::rebuild;
use super::shadow::{piece_tag, pieces};
use super::{Engine, TrainerError};

/// The way to the other ranks.
pub struct Refill<'a> {
    /// Where this rank stands.
    pub context: &'a Context,
    /// The way to its peers.
    pub transport: &'a SharedTransport,
    /// What lies in this worker's memory.
    pub memory: &'a Memory,
    /// The step whose state is sent.
    pub step: u64,
}

impl Refill<'_> {
    /// Sends what other ranks need, takes what this one needs. Nothing where every rank has its own state.
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost, or its state isn't there after all.
    pub fn run(&self, engine: &mut Engine) -> Result<(), TrainerError> {
        let refills = &self.context.refills;
        if refills.is_empty() {
            return Ok(());
        }
        let me = self.context.id();
        let (context, source) = (self.context, self.context.given_by(me));
        let asks = refills.keys().copied();
        let asks: Vec<RankId> = asks.filter(|rank| context.given_by(*rank) == Some(me)).collect();
        let ranks = asks.iter().copied().chain(source.map(|_| me));
        let most = ranks.map(|rank| pieces(self.context, rank).len()).max();
        for turn in 0..most.unwrap_or(0) {
            for rank in &asks {
                self.give(*rank, turn, engine)?;
            }
            if let Some(guard) = source.filter(|guard| *guard != me) {
                self.take(guard, turn, engine)?;
            }
        }
        rebuild(self.context, self.transport, self.memory, self.step, engine)?;
        let (transport, step) = (self.transport, self.step);
        let means = Means {
            context,
            transport,
            step,
        };
        means.of_lanes(engine)?;
        let of_my_stage = |rank: &RankId| context.plan.rank(*rank).stage == context.rank.stage;
        let has_parts =
            |(rank, from): (&RankId, &Source)| from.is_exact() || context.given_by(*rank).is_some();
        if refills
            .iter()
            .any(|refill| of_my_stage(refill.0) && has_parts(refill))
        {
            self.share_weights(engine)?;
        }
        means.of_neighbours(engine)
    }

    /// Piece number `turn` of a rank's state to that rank, which may be this one.
    fn give(&self, rank: RankId, turn: usize, engine: &mut Engine) -> Result<(), TrainerError> {
        let Some(&(layer, kind)) = pieces(self.context, rank).get(turn) else {
            return Ok(());
        };
        let state = self.memory.at(Whose::Guarded(rank), self.step)?;
        let (range, bytes) = state.piece(layer, kind)?;
        if rank == self.context.id() {
            return Ok(engine.set_state_bytes(layer, kind, range, bytes)?);
        }
        let payload = self.transport.pool().copy_of(bytes).into();
        let tag = piece_tag(TagKind::State, self.step, self.context, (layer, kind));
        Ok(self.transport.send(rank, tag, payload, self.context.deadline())?)
    }

    fn take(&self, guard: RankId, turn: usize, engine: &mut Engine) -> Result<(), TrainerError> {
        let Some(&(layer, kind)) = pieces(self.context, self.context.id()).get(turn) else {
            return Ok(());
        };
        let tag = piece_tag(TagKind::State, self.step, self.context, (layer, kind));
        let frame = self.transport.recv(guard, tag, self.context.deadline())?;
        let owned = self.context.owned(layer);
        Ok(engine.set_state_bytes(layer, kind, owned, frame.bytes())?)
    }

    /// A guard has only what its rank owns; the rest of the weights are the other lanes'.
    fn share_weights(&self, engine: &mut Engine) -> Result<(), TrainerError> {
        let (context, transport) = (self.context, self.transport);
        let lanes = Lanes { context, transport };
        let layers = engine.layers().into_iter();
        for layer in layers.filter(|layer| context.is_guarded(*layer)) {
            lanes.send_weights(engine, self.step, layer)?;
            lanes.take_weights(engine, self.step, layer)?;
        }
        Ok(())
    }
}
