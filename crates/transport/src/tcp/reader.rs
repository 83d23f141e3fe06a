//! Reads frames from one connection into the inbox of the link that it serves.
//!
//! In: a byte stream nobody trusts. Out: frames in the inbox, and how the stream ended. Generic over the stream, so
//! that tests feed it garbage. Order per frame: header, gate, room in the inbox, only then memory for the payload
//! (TR-3). Which link it is for is asked after its header came: so a frame of the epoch before is never taken for one
//! of the next (TR-5), however late it comes.

use std::io::{BufReader, ErrorKind, Read};

use super::serving::Serving;
use crate::error::End;
use crate::gate::Verdict;
use crate::hub::Link;
use crate::inbox::Room;
use crate::stats::add;
use crate::wire::{FrameType, HEADER_BYTES, Header, checksum};
use crate::{Buffer, Frame, ProtocolError, Tag};

/// What can be learned of a connection without waiting for it.
pub(crate) trait Glance {
    /// Whether the peer has closed its side, or is gone, whatever it sent before.
    fn hung_up(&self) -> bool;

    /// Whether there is something to read.
    fn readable(&self) -> bool;
}

/// Small, as what is read ahead of a large payload has to be copied out of it again.
const READ_AHEAD_BYTES: usize = 8 * 1024;

/// Reads until the stream ends, and says how.
pub(crate) fn read_all(serving: &Serving, stream: impl Read, glance: &dyn Glance) -> End {
    let mut reading = Reading {
        stream: BufReader::with_capacity(READ_AHEAD_BYTES, stream),
        ahead: None,
        glance,
    };
    loop {
        if let Err(end) = read_one(serving, &mut reading) {
            return end;
        }
    }
}

struct Reading<'a, R: Read> {
    stream: BufReader<R>,
    /// A header that was read while something else wasn't over, or why there is none.
    ahead: Option<Result<Header, End>>,
    glance: &'a dyn Glance,
}

impl<R: Read> Reading<'_, R> {
    fn header(&mut self) -> Result<Header, End> {
        if let Some(ahead) = self.ahead.take() {
            return ahead;
        }
        let mut bytes = [0; HEADER_BYTES];
        self.stream.read_exact(&mut bytes).map_err(|e| lost(&e))?;
        Header::decode(&bytes).map_err(End::Protocol)
    }

    /// While a payload comes another way: takes what the peer says about those that go to it, up to any other frame,
    /// which waits. The peer may need to be told of both directions before either gets on. Returns whether the peer's
    /// side is at its end.
    fn look_ahead(&mut self, link: &Link) -> bool {
        while self.ahead.is_none() && (!self.stream.buffer().is_empty() || self.glance.readable()) {
            match self.header() {
                Ok(header)
                    if header.frame == FrameType::Ready
                        && link.gate.check(&header) == Ok(Verdict::Accept) =>
                {
                    self.ahead = peer_is_ready(link).err().map(Err);
                }
                other => self.ahead = Some(other),
            }
        }
        matches!(self.ahead, Some(Err(_))) || self.glance.hung_up()
    }
}

fn lost(error: &std::io::Error) -> End {
    match error.kind() {
        ErrorKind::UnexpectedEof => End::Reset("the stream ended without a goodbye".to_owned()),
        _ => End::Reset(error.to_string()),
    }
}

fn read_one(serving: &Serving, reading: &mut Reading<'_, impl Read>) -> Result<(), End> {
    let header = reading.header()?;
    let (link, met) = serving.now();
    let stream = &mut reading.stream;
    let verdict = link.gate.check(&header).map_err(End::Protocol)?;
    // The gate has compared it with max_frame_bytes, which is a usize.
    let length = header.payload_bytes as usize;
    match (verdict, header.frame) {
        (Verdict::DropOld, _) => {
            add(&link.counters.frames_dropped_old, 1);
            match header.frame {
                FrameType::Apart(_) => Ok(()),
                _ => skip(stream, length),
            }
        }
        (Verdict::Fence, _) => serving.fence(header.epoch),
        (Verdict::Accept, _) if !met => Err(End::Protocol(ProtocolError::Malformed {
            why: "a frame before the fence of its epoch",
        })),
        (Verdict::Accept, FrameType::Data(tag)) => match link.inbox.reserve(link.peer(), length) {
            Room::Discard => skip(stream, length),
            Room::Reserved => {
                let buffer = read_payload(&link, stream, &header, length)?;
                link.inbox.deliver(Frame::new(link.peer(), tag, buffer));
                Ok(())
            }
        },
        (Verdict::Accept, FrameType::Apart(tag)) => read_apart(&link, tag, &header, length, reading),
        (Verdict::Accept, FrameType::Ready) => peer_is_ready(&link),
        (Verdict::Accept, FrameType::Abort) => {
            // Its fence of another epoch may follow.
            let reason = read_payload(&link, stream, &header, length)?;
            link.end(&End::PeerAborted(String::from_utf8_lossy(&reason).into_owned()));
            Ok(())
        }
        (Verdict::Accept, FrameType::Goodbye | FrameType::Fence) => Err(End::Closed),
    }
}

fn peer_is_ready(link: &Link) -> Result<(), End> {
    let awaited = link.outbox.peer_is_ready();
    awaited
        .then_some(())
        .ok_or(End::Protocol(ProtocolError::Malformed {
            why: "ready for a payload that wasn't announced",
        }))
}

fn read_payload(link: &Link, stream: &mut impl Read, header: &Header, length: usize) -> Result<Buffer, End> {
    let mut buffer = link.pool.take(length);
    stream.read_exact(&mut buffer).map_err(|e| lost(&e))?;
    check_payload(header, &buffer)?;
    Ok(buffer)
}

/// A payload that goes another way. The peer sends it once it knows that this rank is ready.
fn read_apart(
    link: &Link,
    tag: Tag,
    header: &Header,
    length: usize,
    reading: &mut Reading<'_, impl Read>,
) -> Result<(), End> {
    let apart = link.apart.get().ok_or(End::Protocol(ProtocolError::Malformed {
        why: "a payload apart, which wasn't agreed on",
    }))?;
    let room = link.inbox.reserve(link.peer(), length);
    // Also where it will be thrown away: NCCL can't skip.
    let mut buffer = link.pool.take(length);
    if !link.outbox.owe_ready() {
        // The peer learns that this rank closes, and gives up.
        return Ok(());
    }
    let received = apart.receive(&mut buffer, &mut || reading.look_ahead(link));
    match (&received, &reading.ahead) {
        // Why the peer gave up was read already: that is told, not that its end is gone.
        (Err(_), Some(Ok(ahead))) if ahead.frame == FrameType::Abort => return Ok(()),
        _ => received?,
    }
    check_payload(header, &buffer)?;
    if room == Room::Reserved {
        link.inbox.deliver(Frame::new(link.peer(), tag, buffer));
    }
    Ok(())
}

fn check_payload(header: &Header, payload: &[u8]) -> Result<(), End> {
    if let Some(found) = header.payload_checksum {
        let computed = checksum(payload);
        if computed != found {
            return Err(End::Protocol(ProtocolError::Checksum {
                what: "payload",
                found,
                computed,
            }));
        }
    }
    Ok(())
}

fn skip(stream: &mut impl Read, length: usize) -> Result<(), End> {
    let skipped =
        std::io::copy(&mut stream.take(length as u64), &mut std::io::sink()).map_err(|e| lost(&e))?;
    if skipped < length as u64 {
        Err(lost(&ErrorKind::UnexpectedEof.into()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
