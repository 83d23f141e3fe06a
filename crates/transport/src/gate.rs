//! Decides what may come in on one connection (TR-5). Pure.
//!
//! In: a decoded header. Out: accept, drop (older epoch), a fence, or the protocol error that ends the connection.

use rekindle_types::RankId;

use crate::wire::{FrameType, Header, MAX_REASON_BYTES};
use crate::{Identity, ProtocolError};

/// What to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Take it.
    Accept,
    /// Skip its payload and count it.
    DropOld,
    /// The peer goes over to this epoch or a newer one.
    Fence,
}

/// One connection's rules.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) me: Identity,
    pub(crate) peer: RankId,
    pub(crate) job_hash: u64,
    pub(crate) max_frame_bytes: usize,
}

impl Gate {
    pub(crate) fn new(me: Identity, peer: RankId, max_frame_bytes: usize) -> Self {
        let job_hash = me.job_hash();
        Self {
            me,
            peer,
            job_hash,
            max_frame_bytes,
        }
    }

    /// The header of a frame from this rank to the peer.
    pub(crate) fn header(&self, frame: FrameType, payload_bytes: usize) -> Header {
        Header {
            frame,
            job_hash: self.job_hash,
            epoch: self.me.epoch,
            from: self.me.rank.0,
            to: self.peer.0,
            payload_bytes: payload_bytes as u64,
            payload_checksum: None,
        }
    }

    pub(crate) fn check(&self, header: &Header) -> Result<Verdict, ProtocolError> {
        if header.job_hash != self.job_hash {
            return Err(ProtocolError::WrongJob {
                found: header.job_hash,
                ours: self.job_hash,
            });
        }
        let limit = match header.frame {
            FrameType::Data(_) | FrameType::Apart(_) => self.max_frame_bytes,
            FrameType::Goodbye | FrameType::Fence | FrameType::Ready => 0,
            FrameType::Abort => MAX_REASON_BYTES,
        } as u64;
        if header.payload_bytes > limit {
            return Err(ProtocolError::Oversize {
                bytes: header.payload_bytes,
                limit,
            });
        }
        let fence = header.frame == FrameType::Fence;
        if header.epoch > self.me.epoch && !fence {
            return Err(ProtocolError::NewerEpoch {
                found: header.epoch,
                ours: self.me.epoch,
            });
        }
        if header.epoch < self.me.epoch {
            return Ok(Verdict::DropOld);
        }
        if (header.from, header.to) != (self.peer.0, self.me.rank.0) {
            return Err(ProtocolError::WrongRank {
                from: header.from,
                to: header.to,
                peer: self.peer,
                me: self.me.rank,
            });
        }
        Ok(if fence { Verdict::Fence } else { Verdict::Accept })
    }
}
