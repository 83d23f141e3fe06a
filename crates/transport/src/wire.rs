//! The bytes of a frame header. `docs/transport-protocol.md` says the same for readers of other languages.
//!
//! All numbers are little-endian. 64 bytes:
//!
//! | bytes  | what |
//! |--------|------|
//! | 0..4   | magic `RKF1` |
//! | 4      | frame type: 0 data, 1 goodbye, 2 abort, 3 fence, 4 data whose payload goes apart, 5 ready |
//! | 5      | tag kind ([`TagKind`]'s code); 0 unless data or data apart |
//! | 6      | flags: bit 0 = the payload checksum is present; the others are 0 |
//! | 7      | 0 |
//! | 8..16  | job hash: xxh3-64 of the job id, seed 0 |
//! | 16..24 | epoch |
//! | 24..32 | step |
//! | 32..36 | index |
//! | 36..40 | part |
//! | 40..44 | sending rank |
//! | 44..48 | receiving rank |
//! | 48..56 | payload length in bytes |
//! | 56..60 | payload checksum: low half of xxh3-64 of the payload; 0 when absent |
//! | 60..64 | header checksum: low half of xxh3-64 of bytes 0..60 |
//!
//! In: [`Header`] or bytes. Out: the other one, or what is wrong. Never panics, never allocates.

use rekindle_types::Epoch;
use xxhash_rust::xxh3::xxh3_64;

use crate::{ProtocolError, Tag, TagKind};

/// Length of a frame header.
pub const HEADER_BYTES: usize = 64;
/// Longest reason an abort frame carries, bytes.
pub const MAX_REASON_BYTES: usize = 1024;
const MAGIC: [u8; 4] = *b"RKF1";
const FLAG_PAYLOAD_CHECKSUM: u8 = 1;

/// What kind of frame it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameType {
    /// A tagged payload.
    Data(Tag),
    /// The sender is finished; nothing follows.
    Goodbye,
    /// The sender gave up its epoch; the payload is its reason as UTF-8 text.
    Abort,
    /// The sender goes over to the header's epoch: what follows is of that one.
    Fence,
    /// A tagged payload that doesn't follow: it goes another way than the connection, once the receiver is ready for
    /// it.
    Apart(Tag),
    /// The sender is ready for the oldest payload apart that it hasn't said this of.
    Ready,
}

/// A frame header's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Type and tag.
    pub frame: FrameType,
    /// Hash of the job id.
    pub job_hash: u64,
    /// Epoch of the sender.
    pub epoch: Epoch,
    /// Sending rank.
    pub from: u32,
    /// Receiving rank.
    pub to: u32,
    /// Payload length in bytes.
    pub payload_bytes: u64,
    /// Checksum of the payload, where the sender gives one.
    pub payload_checksum: Option<u32>,
}

/// The checksum of payloads and headers.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    (xxh3_64(bytes) & u64::from(u32::MAX)) as u32
}

fn put<const N: usize>(out: &mut [u8; HEADER_BYTES], at: usize, bytes: [u8; N]) {
    out[at..at + N].copy_from_slice(&bytes);
}

fn get<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn put_tag(out: &mut [u8; HEADER_BYTES], tag: Tag, code: u8) -> u8 {
    out[5] = tag.kind.code();
    put(out, 24, tag.step.to_le_bytes());
    put(out, 32, tag.index.to_le_bytes());
    put(out, 36, tag.part.to_le_bytes());
    code
}

fn get_tag(bytes: &[u8; HEADER_BYTES]) -> Result<Tag, ProtocolError> {
    let kind = TagKind::from_code(bytes[5]).ok_or(ProtocolError::Malformed {
        why: "unknown tag kind",
    })?;
    Ok(Tag {
        kind,
        step: u64::from_le_bytes(get(bytes, 24)),
        index: u32::from_le_bytes(get(bytes, 32)),
        part: u32::from_le_bytes(get(bytes, 36)),
    })
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        put(&mut out, 0, MAGIC);
        out[4] = match self.frame {
            FrameType::Data(tag) => put_tag(&mut out, tag, 0),
            FrameType::Goodbye => 1,
            FrameType::Abort => 2,
            FrameType::Fence => 3,
            FrameType::Apart(tag) => put_tag(&mut out, tag, 4),
            FrameType::Ready => 5,
        };
        put(&mut out, 8, self.job_hash.to_le_bytes());
        put(&mut out, 16, self.epoch.0.to_le_bytes());
        put(&mut out, 40, self.from.to_le_bytes());
        put(&mut out, 44, self.to.to_le_bytes());
        put(&mut out, 48, self.payload_bytes.to_le_bytes());
        if let Some(sum) = self.payload_checksum {
            out[6] = FLAG_PAYLOAD_CHECKSUM;
            put(&mut out, 56, sum.to_le_bytes());
        }
        let sum = checksum(&out[..60]);
        put(&mut out, 60, sum.to_le_bytes());
        out
    }

    /// Reads a header. Only its form is checked here; whether it may come in is the receiver's gate's
    /// business.
    ///
    /// # Errors
    /// `Malformed` or `Checksum`.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, ProtocolError> {
        let malformed = |why| Err(ProtocolError::Malformed { why });
        if bytes[..4] != MAGIC {
            return malformed("the magic bytes differ");
        }
        let (found, computed) = (u32::from_le_bytes(get(bytes, 60)), checksum(&bytes[..60]));
        if found != computed {
            return Err(ProtocolError::Checksum {
                what: "header",
                found,
                computed,
            });
        }
        if bytes[6] & !FLAG_PAYLOAD_CHECKSUM != 0 || bytes[7] != 0 {
            return malformed("unknown flags");
        }
        let payload_checksum =
            (bytes[6] & FLAG_PAYLOAD_CHECKSUM != 0).then(|| u32::from_le_bytes(get(bytes, 56)));
        Ok(Self {
            frame: Self::decode_type(bytes)?,
            job_hash: u64::from_le_bytes(get(bytes, 8)),
            epoch: Epoch(u64::from_le_bytes(get(bytes, 16))),
            from: u32::from_le_bytes(get(bytes, 40)),
            to: u32::from_le_bytes(get(bytes, 44)),
            payload_bytes: u64::from_le_bytes(get(bytes, 48)),
            payload_checksum,
        })
    }

    fn decode_type(bytes: &[u8; HEADER_BYTES]) -> Result<FrameType, ProtocolError> {
        match bytes[4] {
            0 => get_tag(bytes).map(FrameType::Data),
            1 => Ok(FrameType::Goodbye),
            2 => Ok(FrameType::Abort),
            3 => Ok(FrameType::Fence),
            4 => get_tag(bytes).map(FrameType::Apart),
            5 => Ok(FrameType::Ready),
            _ => Err(ProtocolError::Malformed {
                why: "unknown frame type",
            }),
        }
    }
}
