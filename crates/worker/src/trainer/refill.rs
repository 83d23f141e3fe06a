//! Ranks whose machine took their state with it get it from the workers of their guards, before the first step of the
//! new epoch.
//!
//! ```text
//!   rank G: the shadow of rank R that lies in its worker's memory  --State-->  rank R: weights and moments of what it owns (of an end of the
//!                                                                              pipeline in a job that swaps: embedding or head)
//!   all lanes: what each owns of the weights to the others, as after an update
//!   where guards keep moments alone: all weights from another lane that has them
//! ```
//!
//! Who sends to whom is the coordinator's decision ([`Context::refills`]). Deliberately absent: states that nobody
//! has ([`super::mean`]).

use rekindle_plan::twins;
use rekindle_transport::TagKind;
use rekindle_types::{RankId, Refill as Source, StateKind};

use super::context::{Context, SharedTransport};
use super::lanes::Lanes;
use super::left::{Memory, Whose};
use super::mean::{Means, Sources};
use super::parity::rebuild;
use super::shadow::{guarded_pieces, piece_tag};
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
    /// Sends what other ranks need, takes what this one needs. Nothing where every rank has its own state. Returns
    /// what other shares can be tried of ([`Means::of_neighbours`]).
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost, or its state isn't there after all.
    pub fn run(&self, engine: &mut Engine) -> Result<Sources, TrainerError> {
        let refills = &self.context.refills;
        if refills.is_empty() {
            return Ok(Sources::new());
        }
        let me = self.context.id();
        let (context, source) = (self.context, self.context.given_by(me));
        let asks = refills.keys().copied();
        let asks: Vec<RankId> = asks.filter(|rank| context.given_by(*rank) == Some(me)).collect();
        let ranks = asks.iter().copied().chain(source.map(|_| me));
        let most = ranks.map(|rank| guarded_pieces(self.context, rank).len()).max();
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
        self.copy_weights(engine)?;
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
        let Some(&(layer, kind)) = guarded_pieces(self.context, rank).get(turn) else {
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
        let Some(&(layer, kind)) = guarded_pieces(self.context, self.context.id()).get(turn) else {
            return Ok(());
        };
        let tag = piece_tag(TagKind::State, self.step, self.context, (layer, kind));
        let frame = self.transport.recv(guard, tag, self.context.deadline())?;
        let owned = self.context.owned(layer);
        Ok(engine.set_state_bytes(layer, kind, owned, frame.bytes())?)
    }

    /// Ranks of which guards have moments alone get all weights from the first lane of their stage that has its own
    /// state.
    fn copy_weights(&self, engine: &mut Engine) -> Result<(), TrainerError> {
        let (context, transport, me) = (self.context, self.transport, self.context.id());
        if !context.guards_keep_moments_alone() {
            return Ok(());
        }
        let guarded = context.refills.iter();
        let guarded = guarded.filter(|(_, from)| matches!(from, Source::Guard(_)));
        let has = |rank: &RankId| !context.refills.contains_key(rank);
        let of = |rank: RankId| {
            let twin = twins(&context.plan, rank).find(has);
            let none = || TrainerError::defect(format!("no lane has the weights of {rank}"));
            Ok((rank, twin.ok_or_else(none)?))
        };
        let pairs = guarded.map(|(rank, _)| of(*rank));
        let mut pairs = pairs.collect::<Result<Vec<(RankId, RankId)>, TrainerError>>()?;
        pairs.retain(|(rank, twin)| [*rank, *twin].contains(&me));
        for layer in engine.layers() {
            let all = 0..context.numel(layer);
            let tag = piece_tag(TagKind::State, self.step, context, (layer, StateKind::Weights));
            for (rank, twin) in &pairs {
                if *twin == me {
                    let payload = transport
                        .pool()
                        .copy_of(&engine.weight_bytes(layer, all.clone())?);
                    transport.send(*rank, tag, payload.into(), context.deadline())?;
                } else {
                    let frame = transport.recv(*twin, tag, context.deadline())?;
                    engine.set_weight_bytes(layer, all.clone(), frame.bytes())?;
                }
            }
        }
        Ok(())
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
