//! Reads frames from one connection into the inbox.
//!
//! In: a byte stream nobody trusts. Out: frames in the inbox, and how the stream ended. Generic over the stream, so that tests feed it garbage.
//! Order per frame: header, gate, room in the inbox, only then memory for the payload (TR-3).

use std::io::{BufReader, ErrorKind, Read};

use crate::error::End;
use crate::gate::Verdict;
use crate::hub::Link;
use crate::inbox::Room;
use crate::stats::add;
use crate::wire::{FrameType, HEADER_BYTES, Header, checksum};
use crate::{Buffer, Frame, ProtocolError};

/// Small, as what is read ahead of a large payload has to be copied out of it again.
const READ_AHEAD_BYTES: usize = 8 * 1024;

/// Reads until the stream ends, and says how.
pub(crate) fn read_all(link: &Link, stream: impl Read) -> End {
    let mut stream = BufReader::with_capacity(READ_AHEAD_BYTES, stream);
    loop {
        if let Err(end) = read_one(link, &mut stream) {
            return end;
        }
    }
}

fn lost(error: &std::io::Error) -> End {
    match error.kind() {
        ErrorKind::UnexpectedEof => End::Reset("the stream ended without a goodbye".to_owned()),
        _ => End::Reset(error.to_string()),
    }
}

fn read_one(link: &Link, stream: &mut impl Read) -> Result<(), End> {
    let mut bytes = [0; HEADER_BYTES];
    stream.read_exact(&mut bytes).map_err(|e| lost(&e))?;
    let header = Header::decode(&bytes).map_err(End::Protocol)?;
    let verdict = link.gate.check(&header).map_err(End::Protocol)?;
    // The gate has compared it with max_frame_bytes, which is a usize.
    let length = header.payload_bytes as usize;
    match (verdict, header.frame) {
        (Verdict::DropOld, _) => {
            add(&link.counters.frames_dropped_old, 1);
            skip(stream, length)
        }
        (Verdict::Accept, FrameType::Data(tag)) => match link.inbox.reserve(link.peer(), length) {
            Room::Discard => skip(stream, length),
            Room::Reserved => {
                let buffer = read_payload(link, stream, &header, length)?;
                link.inbox.deliver(Frame::new(link.peer(), tag, buffer));
                Ok(())
            }
        },
        (Verdict::Accept, FrameType::Goodbye) => Err(End::Closed),
        (Verdict::Accept, FrameType::Abort) => {
            let reason = read_payload(link, stream, &header, length)?;
            Err(End::PeerAborted(String::from_utf8_lossy(&reason).into_owned()))
        }
    }
}

fn read_payload(link: &Link, stream: &mut impl Read, header: &Header, length: usize) -> Result<Buffer, End> {
    let mut buffer = link.pool.take(length);
    stream.read_exact(&mut buffer).map_err(|e| lost(&e))?;
    if let Some(found) = header.payload_checksum {
        let computed = checksum(&buffer);
        if computed != found {
            return Err(End::Protocol(ProtocolError::Checksum {
                what: "payload",
                found,
                computed,
            }));
        }
    }
    Ok(buffer)
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
