//! What can go wrong, by what the caller can do about it.
//!
//! A lost peer ([`TransportError::is_peer_loss`]) means: abort, tell the coordinator which rank, wait for the
//! next epoch. A deadline means the peer is alive but late, or the plan is wrong. Everything else is a fault
//! of the program or of its options.

use std::time::Duration;

use rekindle_types::{Epoch, RankId};

use crate::{Identity, Tag};

/// Which call was waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// For room in the outbound queue.
    Send,
    /// For a frame.
    Receive,
    /// For the outbound queue to be written.
    Flush,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Send => "room to send",
            Self::Receive => "a frame",
            Self::Flush => "the queue to be written",
        })
    }
}

/// What a peer sent that it must not send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The bytes aren't a frame header: the stream is out of step, or the peer isn't one of ours.
    #[error("no frame header: {why}")]
    Malformed {
        /// What is wrong with the bytes.
        why: &'static str,
    },
    /// A checksum differs: the bytes changed on the way.
    #[error("{what} checksum is {found:#010x}, computed {computed:#010x}")]
    Checksum {
        /// "header" or "payload".
        what: &'static str,
        /// The value in the frame.
        found: u32,
        /// The value of the bytes that arrived.
        computed: u32,
    },
    /// A frame of another job.
    #[error("frame of another job (hash {found:#018x}, ours is {ours:#018x})")]
    WrongJob {
        /// Hash in the frame.
        found: u64,
        /// Hash of our job.
        ours: u64,
    },
    /// A frame of an epoch this rank hasn't reached.
    #[error("frame of {found} while this rank is at {ours}")]
    NewerEpoch {
        /// The frame's epoch.
        found: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// A frame between other ranks than the connection's two.
    #[error("frame from rank {from} to rank {to} on the connection from {peer} to {me}")]
    WrongRank {
        /// Sender in the frame.
        from: u32,
        /// Receiver in the frame.
        to: u32,
        /// Who is at the other end.
        peer: RankId,
        /// Who we are.
        me: RankId,
    },
    /// A frame over `max_frame_bytes`.
    #[error("frame of {bytes} bytes, the limit is {limit}")]
    Oversize {
        /// Length in the frame.
        bytes: u64,
        /// Our `max_frame_bytes`.
        limit: u64,
    },
}

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// Other protocol version.
    #[error("the protocol versions differ")]
    Version,
    /// Other job.
    #[error("the jobs differ")]
    Job,
    /// Other epoch.
    #[error("the epochs differ")]
    Epoch,
    /// The caller wanted another rank than the one that answered.
    #[error("another rank answers at this address")]
    Rank,
    /// The plan has no link between the two.
    #[error("the plan has no link between these ranks")]
    Link,
    /// Other number of ranks.
    #[error("the world sizes differ")]
    World,
}

/// Why an operation of a transport failed.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer closed in order: it was finished.
    #[error("{rank} has closed its connection")]
    PeerClosed {
        /// Who.
        rank: RankId,
    },
    /// The connection ended without a word: the peer's process or machine died, or the network cut it.
    #[error("lost the connection to {rank}: {detail}")]
    PeerReset {
        /// Who.
        rank: RankId,
        /// What the operating system said.
        detail: String,
    },
    /// The peer gave up and said why.
    #[error("{rank} aborted: {reason}")]
    PeerAborted {
        /// Who.
        rank: RankId,
        /// Its reason.
        reason: String,
    },
    /// This rank's own [`abort`](crate::Transport::abort) was called.
    #[error("this rank's communication was aborted: {reason}")]
    Aborted {
        /// The reason given.
        reason: String,
    },
    /// The time is over; the peer's connection still stands.
    #[error("waited {waited:.3?} for {operation} ({}) with {peer}", tag.map_or_else(|| "any tag".to_owned(), |t| t.to_string()))]
    DeadlineExceeded {
        /// What was waited for.
        operation: Operation,
        /// With whom.
        peer: RankId,
        /// Which frame, where there is one.
        tag: Option<Tag>,
        /// How long.
        waited: Duration,
    },
    /// The peer broke the protocol; its connection is closed.
    #[error("{rank} broke the protocol: {source}")]
    Protocol {
        /// Who.
        rank: RankId,
        /// How.
        source: ProtocolError,
    },
    /// A frame hasn't the size or alignment the receiver asked for: the two ends don't share one plan.
    #[error("frame {tag} from {from} has {found} bytes, expected {expected}")]
    SizeMismatch {
        /// Sender.
        from: RankId,
        /// Which frame.
        tag: Tag,
        /// What the receiver asked for.
        expected: String,
        /// What arrived.
        found: usize,
    },
    /// The plan gave this rank no connection to that peer.
    #[error("this rank has no link to {rank}; add it to `links`")]
    NotLinked {
        /// Who.
        rank: RankId,
    },
    /// The payload is over this rank's own `max_frame_bytes`; send it in parts.
    #[error("payload of {bytes} bytes for {to} ({tag}) is over max_frame_bytes = {limit}")]
    FrameTooLarge {
        /// Receiver.
        to: RankId,
        /// Which frame.
        tag: Tag,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The inbox is full of other frames, so the wanted one can't arrive (TR-4).
    #[error(
        "the inbox from {from} holds {held_bytes} bytes of frames nobody asked for (hard bound {hard_bytes}), so {tag} can't arrive; receive in the order of sending or raise inbox_hard_bytes"
    )]
    InboxFull {
        /// Sender.
        from: RankId,
        /// The wanted frame.
        tag: Tag,
        /// Bytes held.
        held_bytes: usize,
        /// The bound.
        hard_bytes: usize,
    },
    /// Both ends were found but don't belong together.
    #[error("connection refused ({reason}): {ours}; the other end is {theirs}")]
    Refused {
        /// Why.
        reason: RefusalReason,
        /// Us.
        ours: Box<Identity>,
        /// Who answered, as it named itself.
        theirs: String,
    },
    /// Not every link stood in time.
    #[error("no connection to {missing:?} in time{}", if detail.is_empty() { String::new() } else { format!(" ({detail})") })]
    ConnectDeadline {
        /// Who is missing.
        missing: Vec<RankId>,
        /// The last failure of each, and whom we refused meanwhile.
        detail: String,
    },
    /// Options that contradict each other.
    #[error("transport option {option}: {why}")]
    Options {
        /// Which.
        option: &'static str,
        /// What to change.
        why: String,
    },
    /// A group that this rank isn't in, with doubles, or with parts that don't fit.
    #[error("collective: {why}")]
    Group {
        /// What is wrong.
        why: String,
    },
    /// An integer sum left its range. Exact sums never wrap.
    #[error("the sum of {tag} overflows with the part of {from}")]
    Overflow {
        /// Which collective.
        tag: Tag,
        /// Whose part was added last.
        from: RankId,
    },
    /// NCCL, or the device under it, failed on the way to or from a peer. Which end is at fault can't be told from
    /// here.
    #[error("NCCL between this rank and {rank}: {detail}")]
    Nccl {
        /// The peer.
        rank: RankId,
        /// What failed, with NCCL's own words.
        detail: String,
    },
    /// A socket couldn't be set up.
    #[error("{what}: {source}")]
    Io {
        /// Doing what.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
}

impl TransportError {
    /// The peer that is gone, where this error says that one is.
    #[must_use]
    pub fn lost_peer(&self) -> Option<RankId> {
        match self {
            Self::PeerClosed { rank }
            | Self::PeerReset { rank, .. }
            | Self::PeerAborted { rank, .. }
            | Self::Protocol { rank, .. } => Some(*rank),
            _ => None,
        }
    }

    /// Whether a peer is gone: this epoch can't go on.
    #[must_use]
    pub fn is_peer_loss(&self) -> bool {
        self.lost_peer().is_some()
    }
}

/// How a link ended; kept until the transport is dropped, and told to everybody who asks.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Closed,
    Reset(String),
    PeerAborted(String),
    Aborted(String),
    Protocol(ProtocolError),
    Nccl(String),
}

impl End {
    pub(crate) fn error(&self, rank: RankId) -> TransportError {
        match self.clone() {
            Self::Closed => TransportError::PeerClosed { rank },
            Self::Reset(detail) => TransportError::PeerReset { rank, detail },
            Self::PeerAborted(reason) => TransportError::PeerAborted { rank, reason },
            Self::Aborted(reason) => TransportError::Aborted { reason },
            Self::Protocol(source) => TransportError::Protocol { rank, source },
            Self::Nccl(detail) => TransportError::Nccl { rank, detail },
        }
    }
}
