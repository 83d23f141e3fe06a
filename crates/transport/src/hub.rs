//! What TCP and memory share: one inbox, an outbox per peer, and the [`Transport`] trait on top of them.
//!
//! In: callers' sends and receives. Out: queues that a [`Carrier`] (threads with sockets, or pumps) moves
//! between ranks. A carrier never sees callers, callers never see a carrier.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use rekindle_types::{Epoch, RankId};

use crate::apart::Apart;
use crate::error::End;
use crate::gate::Gate;
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::stats::Counters;
use crate::{
    Blocked, BufferPool, Deadline, Frame, Identity, Options, Payload, Stats, Tag, Transport, TransportError,
};

/// Moves frames between the queues of two ranks.
pub(crate) trait Carrier: Send + Sync {
    /// The inbox is already aborted: end the outboxes and have the peers told. Must not block.
    fn abort(&self, reason: &str);

    /// The queues are closing: drain, say goodbye, stop and join every thread; by `deadline` at the latest by
    /// force.
    fn close(&mut self, deadline: Deadline);
}

/// One link's queues, as its threads see them.
pub(crate) struct Link {
    pub(crate) gate: Gate,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) pool: BufferPool,
    pub(crate) payload_checksum: bool,
    /// Another way for payloads, where both ends have one.
    pub(crate) apart: OnceLock<Arc<dyn Apart>>,
}

impl Link {
    pub(crate) fn peer(&self) -> RankId {
        self.gate.peer
    }

    /// Stops what goes another way.
    pub(crate) fn stop_apart(&self) {
        if let Some(apart) = self.apart.get() {
            apart.stop();
        }
    }

    /// The connection is over in both directions. Returns whether the writer was in the middle of a write.
    pub(crate) fn end(&self, end: &End) -> bool {
        // Outbox first: whoever learns of the end from a receive can't send any more.
        let writing = self.outbox.end(end.clone());
        self.inbox.end(self.peer(), end.clone());
        writing
    }
}

/// The queues of one rank.
pub(crate) struct Hub {
    me: Identity,
    pool: BufferPool,
    options: Options,
    inbox: Arc<Inbox>,
    links: BTreeMap<RankId, Arc<Link>>,
}

impl Hub {
    pub(crate) fn new(me: Identity, peers: &BTreeSet<RankId>, options: &Options) -> Self {
        let counters: BTreeMap<_, _> = peers
            .iter()
            .map(|&rank| (rank, Arc::new(Counters::default())))
            .collect();
        let inbox = Arc::new(Inbox::new(
            &counters,
            options.inbox_soft_bytes,
            options.inbox_hard_bytes,
        ));
        let pool = BufferPool::new(options.pool_bytes);
        let mut hub = Self {
            me,
            pool,
            options: options.clone(),
            inbox,
            links: BTreeMap::new(),
        };
        for (rank, counters) in counters {
            let link = hub.link_over(rank, counters);
            hub.links.insert(rank, link);
        }
        hub
    }

    fn link_over(&self, rank: RankId, counters: Arc<Counters>) -> Arc<Link> {
        let options = &self.options;
        let outbox = Outbox::new(
            rank,
            Arc::clone(&counters),
            options.outbox_bytes,
            options.outbox_frames,
        );
        Arc::new(Link {
            gate: Gate::new(self.me.clone(), rank, options.max_frame_bytes),
            inbox: Arc::clone(&self.inbox),
            outbox: Arc::new(outbox),
            counters,
            pool: self.pool.clone(),
            payload_checksum: options.payload_checksum,
            apart: OnceLock::new(),
        })
    }

    /// A fresh link in place of one whose connection ended before anybody used it. Its threads are joined.
    pub(crate) fn renew(&mut self, rank: RankId) {
        if let Some(link) = self.links.remove(&rank) {
            self.inbox.renew(rank);
            let link = self.link_over(rank, Arc::clone(&link.counters));
            self.links.insert(rank, link);
        }
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.links.values()
    }

    pub(crate) fn link(&self, rank: RankId) -> Result<&Arc<Link>, TransportError> {
        self.links.get(&rank).ok_or(TransportError::NotLinked { rank })
    }
}

/// A rank's transport over some carrier. Dropping it closes it.
pub struct Linked<C: CarrierBound> {
    hub: Hub,
    carrier: C,
    closed: bool,
}

/// Implemented by this crate's carriers only.
#[expect(private_bounds, reason = "sealed: carriers are this crate's business")]
pub trait CarrierBound: Carrier {}
impl<C: Carrier> CarrierBound for C {}

impl<C: CarrierBound> Linked<C> {
    pub(crate) fn new(hub: Hub, carrier: C) -> Self {
        Self {
            hub,
            carrier,
            closed: false,
        }
    }

    pub(crate) fn link(&self, peer: RankId) -> Result<Arc<Link>, TransportError> {
        self.hub.link(peer).cloned()
    }

    pub(crate) fn carrier(&self) -> &C {
        &self.carrier
    }

    /// Which member of which plan this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.hub.me
    }

    /// The peers this rank is connected to.
    pub fn peers(&self) -> impl Iterator<Item = RankId> + '_ {
        self.hub.links.keys().copied()
    }

    /// Writes what is queued, says goodbye, and joins all threads, by `deadline` at the latest. Frames that
    /// arrived and weren't received are lost. Dropping does the same within `Options::linger`.
    pub fn close(mut self, deadline: Deadline) {
        self.close_by(deadline);
    }

    fn close_by(&mut self, deadline: Deadline) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.hub.inbox.discard();
        for link in self.hub.links.values() {
            link.outbox.close();
        }
        self.carrier.close(deadline);
    }
}

impl<C: CarrierBound> Drop for Linked<C> {
    fn drop(&mut self) {
        self.close_by(Deadline::after(self.hub.options.linger));
    }
}

impl<C: CarrierBound> Transport for Linked<C> {
    fn rank(&self) -> RankId {
        self.hub.me.rank
    }

    fn world(&self) -> u32 {
        self.hub.me.world
    }

    fn epoch(&self) -> Epoch {
        self.hub.me.epoch
    }

    fn pool(&self) -> &BufferPool {
        &self.hub.pool
    }

    fn send(&self, to: RankId, tag: Tag, payload: Payload, deadline: Deadline) -> Result<(), TransportError> {
        let link = self.hub.link(to)?;
        let (bytes, limit) = (payload.len(), self.hub.options.max_frame_bytes);
        if bytes > limit {
            return Err(TransportError::FrameTooLarge {
                to,
                tag,
                bytes,
                limit,
            });
        }
        link.outbox.push(tag, payload, deadline, &self.hub.inbox)
    }

    fn recv(&self, from: RankId, tag: Tag, deadline: Deadline) -> Result<Frame, TransportError> {
        self.hub.inbox.wait(from, tag, deadline)
    }

    fn try_recv(&self, from: RankId, tag: Tag) -> Result<Option<Frame>, TransportError> {
        self.hub.inbox.try_take(from, tag)
    }

    fn flush(&self, deadline: Deadline) -> Result<(), TransportError> {
        self.hub
            .links
            .values()
            .try_for_each(|link| link.outbox.flush(deadline, &self.hub.inbox))
    }

    fn abort(&self, reason: &str) {
        self.hub.inbox.abort(reason);
        self.carrier.abort(reason);
    }

    fn blocked(&self) -> Option<Blocked> {
        self.hub.inbox.blocked()
    }

    fn stats(&self) -> Stats {
        Stats {
            peers: self
                .hub
                .links
                .iter()
                .map(|(&rank, link)| (rank, link.counters.read()))
                .collect(),
        }
    }
}
