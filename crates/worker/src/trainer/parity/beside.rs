//! The thread beside training: copies a state that training has taken hold of, exchanges pieces of it with the group,
//! seals and publishes the set.
//!
//! Its orders come through a bounded queue whose end ends it. It holds the state only while it copies it, waits in
//! slices between which it looks whether the trainer ends, and gives up a set at any error: a peer that is lost is
//! training's to report.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rekindle_compute::{AnyDevice, Frozen};
use rekindle_model::FrozenPart;
use rekindle_transport::{Tag, TagKind};
use rekindle_types::Epoch;
use rekindle_vault::parity::{Group, Seal, checksum};

use super::exchange::{Asks, Exchange, Own};
use super::group::Members;
use super::sets::{Placed, Sets};
use super::{Shared, TrainerError};
use crate::trainer::context::{Context, SharedTransport};

/// What the thread is told.
pub enum Order {
    /// The state after a step is to be kept.
    Exchange {
        /// The step.
        step: u64,
        /// The state.
        parts: Vec<FrozenPart<AnyDevice>>,
    },
    /// Sets of steps before this one may go.
    Retire {
        /// The step.
        before: u64,
    },
}

/// The thread's own.
pub struct Beside {
    epoch: Epoch,
    patience: Duration,
    transport: SharedTransport,
    sets: Sets,
    shared: Arc<Shared>,
}

impl Beside {
    /// Of a trainer that has met its peers.
    #[must_use]
    pub fn new(context: &Context, transport: &SharedTransport, sets: Sets, shared: Arc<Shared>) -> Self {
        Self {
            epoch: context.plan.epoch,
            patience: context.patience,
            transport: Arc::clone(transport),
            sets,
            shared,
        }
    }

    /// Until nobody gives orders any more.
    pub fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Retire { before } => self.sets.retire_before(before),
                Order::Exchange { step, parts } => match self.exchange(step, parts) {
                    Ok(()) => self.shared.published.store(step + 1, Ordering::Release),
                    Err(error) if self.shared.stops() => {
                        tracing::debug!(%error, step, "parities aren't finished")
                    }
                    Err(error) => tracing::warn!(%error, step, "parities aren't kept"),
                },
            }
        }
    }

    fn exchange(&mut self, step: u64, parts: Vec<FrozenPart<AnyDevice>>) -> Result<(), TrainerError> {
        let members = self.sets.members().clone();
        let pieces = self.sets.pieces().to_vec();
        let room = self
            .sets
            .room()
            .ok_or_else(|| TrainerError::defect("both sets are in use"))?;
        // Gone after this: the next update but one may need its memory.
        copy(parts, &pieces, room.state)?;
        room.parities.fill(0);
        let exchange = Exchange {
            members: &members,
            transport: &self.transport,
            tag: Tag::new(TagKind::Parity, step, 0),
            patience: self.patience,
            ends: &|| self.shared.stops(),
        };
        let own = Own {
            state: room.state,
            ..Own::default()
        };
        exchange.run(&asks(&members.group), own, room.parities)?;
        let states = exchange.all(checksum(room.state))?;
        let seal = seal((self.epoch, step), &members, states, room.parities);
        self.sets.publish(&seal)
    }
}

/// Puts the parts of a state one after the other, and lets go of them.
fn copy(parts: Vec<FrozenPart<AnyDevice>>, pieces: &[Placed], state: &mut [u8]) -> Result<(), TrainerError> {
    if parts.len() != pieces.len() {
        return Err(TrainerError::defect("the state has other parts than its set"));
    }
    for (part, piece) in parts.iter().zip(pieces) {
        let bytes = part.frozen.bytes()?;
        let place = state.get_mut(piece.bytes.clone());
        let place = place.filter(|place| place.len() == bytes.len());
        place
            .ok_or_else(|| TrainerError::defect("a part has another length than its place"))?
            .copy_from_slice(bytes);
    }
    Ok(())
}

fn seal((epoch, step): (Epoch, u64), members: &Members, states: Vec<u64>, parities: &[u8]) -> Seal {
    let ranges = members.group.parities(members.me).into_iter();
    let parity = |range: Range<u64>| {
        let range = range.start as usize..range.end as usize;
        checksum(parities.get(range).unwrap_or_default())
    };
    Seal {
        epoch,
        step,
        members: members.ranks.clone(),
        member: members.me,
        losses: members.group.losses(),
        sizes: (0..members.ranks.len()).map(|n| members.group.size(n)).collect(),
        states,
        parities: ranges.map(parity).collect(),
    }
}

/// What every member asks for to encode its parities.
fn asks(group: &Group) -> Asks {
    (0..group.members())
        .map(|member| (member, group.encode(member)))
        .collect()
}
