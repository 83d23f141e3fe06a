//! Ranks that went back to their sets, and those whose sets are lost: the latter's states are worked out from what is
//! left of their groups.
//!
//! ```text
//!   rank with a set:   its state out of that
//!   members left       --Parity--> lost member: pieces and parities, added up as they come; what comes out has the checksum that the others sealed
//! ```
//!
//! Who has what is the coordinator's decision ([`Context::parities`]). Weights that other lanes own are theirs to
//! send afterwards.

use std::collections::{BTreeMap, BTreeSet};

use rekindle_transport::{Tag, TagKind};
use rekindle_types::{Epoch, Parities, RankId};
use rekindle_vault::parity::checksum;

use super::exchange::{Asks, Exchange, Own};
use super::found::Set;
use super::group::{Members, state_bytes};
use crate::trainer::context::{Context, SharedTransport};
use crate::trainer::left::Memory;
use crate::trainer::shadow::pieces;
use crate::trainer::{Engine, TrainerError};

/// Tells these frames from those of the exchange of the same step.
const REBUILD: u32 = 1;

/// The lost members of a group and those that have their sets.
type Lost<'a> = BTreeMap<(Epoch, &'a [RankId]), (BTreeSet<RankId>, &'a [RankId])>;

/// Gives others what they need, takes what this rank needs. Nothing where nobody goes back to parities.
///
/// # Errors
/// [`TrainerError`] when a peer is lost, or a set isn't there after all.
pub fn rebuild(
    context: &Context,
    transport: &SharedTransport,
    memory: &Memory,
    step: u64,
    engine: &mut Engine,
) -> Result<(), TrainerError> {
    let me = context.id();
    if let Some(parities) = context
        .parities(me)
        .filter(|parities| parities.from.contains(&me))
    {
        let set = memory.set(parities.epoch, step)?.pieces();
        for (layer, kind) in pieces(context, me) {
            let (range, bytes) = set.piece(layer, kind)?;
            engine.set_state_bytes(layer, kind, range, bytes)?;
        }
    }
    // In the same order everywhere.
    for ((epoch, ranks), (lost, from)) in all_lost(context) {
        let group = Lossy {
            context,
            transport,
            step,
            members: match ranks.contains(&me) {
                true => Members::new(context, ranks.to_vec(), losses(context, ranks))?,
                false => continue,
            },
            lost,
            left: from,
        };
        match group.lost.contains(&me) {
            true => group.take(engine)?,
            false if from.contains(&me) => group.give(memory.set(epoch, step)?)?,
            false => {}
        }
    }
    Ok(())
}

fn all_lost(context: &Context) -> Lost<'_> {
    let mut all = Lost::new();
    for rank in context.plan.ranks() {
        let Some(Parities { epoch, members, from }) = context.parities(rank) else {
            continue;
        };
        if !from.contains(&rank) {
            let (lost, _) = all.entry((*epoch, members)).or_insert((BTreeSet::new(), from));
            lost.insert(rank);
        }
    }
    all
}

fn losses(context: &Context, members: &[RankId]) -> usize {
    match members.len() {
        1 => 0,
        _ => context.spec.recovery.parity.losses as usize,
    }
}

/// A group that lost members.
struct Lossy<'a> {
    context: &'a Context,
    transport: &'a SharedTransport,
    step: u64,
    members: Members,
    lost: BTreeSet<RankId>,
    left: &'a [RankId],
}

impl Lossy<'_> {
    fn number(&self, rank: RankId) -> Option<usize> {
        self.members.ranks.iter().position(|member| *member == rank)
    }

    /// What the lost members ask for.
    fn asks(&self) -> Result<Asks, TrainerError> {
        let left: BTreeSet<usize> = self.left.iter().filter_map(|rank| self.number(*rank)).collect();
        let ask = |member: usize| {
            let terms = self.members.group.rebuild(member, &left);
            let terms = terms.map_err(|error| self.fails(error.to_string()))?;
            Ok((member, terms))
        };
        self.lost
            .iter()
            .filter_map(|rank| self.number(*rank))
            .map(ask)
            .collect()
    }

    fn fails(&self, why: String) -> TrainerError {
        TrainerError::Lost { step: self.step, why }
    }

    fn exchange(&self, own: Own<'_>, into: &mut [u8]) -> Result<(), TrainerError> {
        Exchange {
            members: &self.members,
            transport: self.transport,
            tag: Tag::new(TagKind::Parity, self.step, 0).with_part(REBUILD),
            patience: self.context.patience,
            ends: &|| false,
        }
        .run(&self.asks()?, own, into)
    }

    /// The tag of a lost member's checksum.
    fn sealed(&self) -> Tag {
        Tag::new(TagKind::Parity, self.step, u32::MAX).with_part(REBUILD)
    }

    fn give(&self, set: &Set) -> Result<(), TrainerError> {
        let (state, parities) = (set.state(), set.parities());
        self.exchange(Own { state, parities }, &mut [])?;
        if self.left.first() != Some(&self.context.id()) {
            return Ok(());
        }
        for rank in &self.lost {
            let sum = self
                .number(*rank)
                .and_then(|number| set.seal().states.get(number));
            let sum = sum.ok_or_else(|| self.fails(format!("{rank} isn't in the set")))?;
            let deadline = self.context.deadline();
            self.transport
                .send_slice(*rank, self.sealed(), &[*sum], deadline)?;
        }
        Ok(())
    }

    fn take(&self, engine: &mut Engine) -> Result<(), TrainerError> {
        let (context, me) = (self.context, self.context.id());
        let bytes = usize::try_from(state_bytes(context, me)).unwrap_or(usize::MAX);
        let mut state = vec![0; bytes];
        self.exchange(Own::default(), &mut state)?;
        let first = *self
            .left
            .first()
            .ok_or_else(|| self.fails("nobody is left".to_owned()))?;
        let mut sum = [0_u64];
        self.transport
            .recv_into(first, self.sealed(), &mut sum, context.deadline())?;
        if sum != [checksum(&state)] {
            return Err(self.fails("what was worked out of it isn't what was lost".to_owned()));
        }
        let mut rest = state.as_slice();
        for (layer, kind) in pieces(context, me) {
            let (piece, others) = rest.split_at(4 * context.owned(layer).len());
            engine.set_state_bytes(layer, kind, context.owned(layer), piece)?;
            rest = others;
        }
        tracing::info!(left = ?self.left, "its state was worked out from parities");
        Ok(())
    }
}
