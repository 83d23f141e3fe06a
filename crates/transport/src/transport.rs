//! The trait the trainer is written against.

use std::fmt;
use std::time::Instant;

use bytemuck::{AnyBitPattern, NoUninit};
use rekindle_types::{Epoch, RankId};

use crate::{BufferPool, Deadline, Frame, Operation, Payload, Stats, Tag, TransportError};

/// What a thread of this rank is blocked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// The peer it waits for.
    pub on: RankId,
    /// The call it is in.
    pub operation: Operation,
    /// The frame, where there is one.
    pub tag: Option<Tag>,
    /// Since when.
    pub since: Instant,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tag {
            Some(tag) => write!(f, "{} ({tag})", self.operation),
            None => write!(f, "{}", self.operation),
        }
    }
}

/// Frames between the ranks of one plan. All methods may be called from any thread.
pub trait Transport: Send + Sync {
    /// This rank.
    fn rank(&self) -> RankId;

    /// How many ranks the plan has.
    fn world(&self) -> u32;

    /// The epoch of the plan.
    fn epoch(&self) -> Epoch;

    /// Where to take buffers for payloads; received frames come from it as well.
    fn pool(&self) -> &BufferPool;

    /// Queues a frame to `to`. Blocks while the queue to that peer is full (back-pressure). Success means
    /// queued, not arrived.
    ///
    /// # Errors
    /// `DeadlineExceeded`, `Aborted`, the end of the peer's connection, `NotLinked`, `FrameTooLarge`.
    fn send(&self, to: RankId, tag: Tag, payload: Payload, deadline: Deadline) -> Result<(), TransportError>;

    /// Takes the oldest frame of `tag` from `from`; waits for it.
    ///
    /// # Errors
    /// `DeadlineExceeded`, `Aborted`, the end of the peer's connection, `NotLinked`, `InboxFull`.
    fn recv(&self, from: RankId, tag: Tag, deadline: Deadline) -> Result<Frame, TransportError>;

    /// The same without waiting: `None` when no such frame has arrived yet.
    ///
    /// # Errors
    /// As `recv`, without `DeadlineExceeded` and `InboxFull`.
    fn try_recv(&self, from: RankId, tag: Tag) -> Result<Option<Frame>, TransportError>;

    /// Waits until everything queued so far is handed to the network. It may still be on its way.
    ///
    /// # Errors
    /// `DeadlineExceeded`, `Aborted`, the end of a peer's connection with frames for it still queued.
    fn flush(&self, deadline: Deadline) -> Result<(), TransportError>;

    /// Gives up this epoch: every call that waits here returns `Aborted` at once, and so does every later one; linked
    /// peers that wait for this rank get `PeerAborted`, once what was being written is through. The first reason
    /// stays. Never blocks. It isn't passed on to peers of peers. Connections stand until this is closed or another
    /// epoch takes them over, but for those beside which payloads go another way: these end.
    fn abort(&self, reason: &str);

    /// Of the threads of this rank that are blocked in `send`, `recv` or `flush`: what the one waits for that has
    /// waited longest. Calls that needn't wait don't show here.
    fn blocked(&self) -> Option<Blocked>;

    /// Counters so far.
    fn stats(&self) -> Stats;
}

impl dyn Transport + '_ {
    /// Receives exactly `out.len()` values into `out` (one copy from the frame).
    ///
    /// # Errors
    /// As [`Transport::recv`], and `SizeMismatch`.
    pub fn recv_into<T: AnyBitPattern + NoUninit>(
        &self,
        from: RankId,
        tag: Tag,
        out: &mut [T],
        deadline: Deadline,
    ) -> Result<(), TransportError> {
        self.recv(from, tag, deadline)?.copy_to(out)
    }

    /// Sends a copy of `values`, taken through the pool.
    ///
    /// # Errors
    /// As [`Transport::send`].
    pub fn send_slice<T: NoUninit>(
        &self,
        to: RankId,
        tag: Tag,
        values: &[T],
        deadline: Deadline,
    ) -> Result<(), TransportError> {
        self.send(to, tag, self.pool().copy_of(values).into(), deadline)
    }
}
