//! The thread beside training: copies a state that training has taken hold of, exchanges pieces of it with the group, seals and publishes the set.
//!
//! Its orders come through a bounded queue whose end ends it. It holds the state only while it copies it, waits in slices between which it looks
//! whether the trainer ends, and gives up a set at any error: a peer that is lost is training's to report.

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
use super::sets::{Room, Sets};
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
        let Some(Room { state, parities, .. }) = self.sets.room() else {
            return Err(defect("both sets are in use"));
        };
        if parts.len() != pieces.len() {
            return Err(defect("the state has other parts than its set"));
        }
        for (part, (_, _, _, place)) in parts.iter().zip(pieces) {
            let bytes = part.frozen.bytes()?;
            let place = state.get_mut(place).filter(|place| place.len() == bytes.len());
            place
                .ok_or_else(|| defect("a part has another length than its place"))?
                .copy_from_slice(bytes);
        }
        // The next update but one may need its memory.
        drop(parts);
        parities.fill(0);
        let exchange = Exchange {
            members: &members,
            transport: &self.transport,
            tag: Tag::new(TagKind::Parity, step, 0),
            patience: self.patience,
            ends: &|| self.shared.stops(),
        };
        let own = Own {
            state,
            ..Own::default()
        };
        exchange.run(&asks(&members.group), own, parities)?;
        let ranges = members.group.parities(members.me);
        let parity = |range: &std::ops::Range<u64>| {
            let range = range.start as usize..range.end as usize;
            checksum(parities.get(range).unwrap_or_default())
        };
        let seal = Seal {
            epoch: self.epoch,
            step,
            member: members.me,
            losses: members.group.losses(),
            sizes: (0..members.ranks.len()).map(|n| members.group.size(n)).collect(),
            parities: ranges.iter().map(parity).collect(),
            states: exchange.all(checksum(state))?,
            members: members.ranks.clone(),
        };
        self.sets.publish(&seal)
    }
}

/// What every member asks for to encode its parities.
fn asks(group: &Group) -> Asks {
    (0..group.members())
        .map(|member| (member, group.encode(member)))
        .collect()
}

fn defect(what: &str) -> TrainerError {
    TrainerError::Protocol {
        what: format!("{what} (a defect of Rekindle)"),
    }
}
