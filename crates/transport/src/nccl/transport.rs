//! A rank's transport that carries long payloads through NCCL where it could agree on that with the peer.
//!
//! Deliberately absent: anything that differs from TCP for callers.

use std::collections::BTreeMap;
use std::sync::Arc;

use rekindle_types::{Epoch, RankId};

use super::channel::Channel;
use super::endpoint::Kept;
use crate::{
    Blocked, BufferPool, Deadline, Frame, Identity, Payload, Stats, Tag, TcpTransport, Transport,
    TransportError,
};

/// Made by [`NcclEndpoint`](super::NcclEndpoint). Dropping it closes it; channels that are at rest then stay with the
/// endpoint for the next epoch, the others are aborted.
pub struct NcclTransport {
    // Dropped first: its threads use the channels.
    linked: TcpTransport,
    channels: Channels,
}

pub(crate) struct Channels {
    pub(crate) all: BTreeMap<RankId, Arc<Channel>>,
    pub(crate) kept: Arc<Kept>,
}

impl Drop for Channels {
    fn drop(&mut self) {
        self.kept.take_back(std::mem::take(&mut self.all));
    }
}

impl NcclTransport {
    pub(crate) fn new(linked: TcpTransport, channels: Channels) -> Self {
        Self { linked, channels }
    }

    /// Which member of which plan this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.linked.identity()
    }

    /// The peers that long payloads go to and come from through NCCL.
    pub fn through_nccl(&self) -> impl Iterator<Item = RankId> + '_ {
        self.channels.all.keys().copied()
    }
}

impl Transport for NcclTransport {
    fn rank(&self) -> RankId {
        self.linked.rank()
    }

    fn world(&self) -> u32 {
        self.linked.world()
    }

    fn epoch(&self) -> Epoch {
        self.linked.epoch()
    }

    fn pool(&self) -> &BufferPool {
        self.linked.pool()
    }

    fn send(&self, to: RankId, tag: Tag, payload: Payload, deadline: Deadline) -> Result<(), TransportError> {
        self.linked.send(to, tag, payload, deadline)
    }

    fn recv(&self, from: RankId, tag: Tag, deadline: Deadline) -> Result<Frame, TransportError> {
        self.linked.recv(from, tag, deadline)
    }

    fn try_recv(&self, from: RankId, tag: Tag) -> Result<Option<Frame>, TransportError> {
        self.linked.try_recv(from, tag)
    }

    fn flush(&self, deadline: Deadline) -> Result<(), TransportError> {
        self.linked.flush(deadline)
    }

    fn abort(&self, reason: &str) {
        self.linked.abort(reason);
    }

    fn blocked(&self) -> Option<Blocked> {
        self.linked.blocked()
    }

    fn stats(&self) -> Stats {
        self.linked.stats()
    }
}
