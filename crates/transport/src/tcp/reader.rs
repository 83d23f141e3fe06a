//! Reads frames from one connection into the inbox of the link that it serves.
//!
//! In: a byte stream nobody trusts. Out: frames in the inbox, and how the stream ended. Generic over the
//! stream, so that tests feed it garbage. Order per frame: header, gate, room in the inbox, only then memory
//! for the payload (TR-3). Which link it is for is asked after its header came: so a frame of the epoch before is never taken for one of the
//! next (TR-5), however late it comes.

use std::io::{BufReader, ErrorKind, Read};

use super::serving::Serving;
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
pub(crate) fn read_all(serving: &Serving, stream: impl Read) -> End {
    let mut stream = BufReader::with_capacity(READ_AHEAD_BYTES, stream);
    loop {
        if let Err(end) = read_one(serving, &mut stream) {
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

fn read_one(serving: &Serving, stream: &mut impl Read) -> Result<(), End> {
    let mut bytes = [0; HEADER_BYTES];
    stream.read_exact(&mut bytes).map_err(|e| lost(&e))?;
    let header = Header::decode(&bytes).map_err(End::Protocol)?;
    let (link, met) = serving.now();
    let verdict = link.gate.check(&header).map_err(End::Protocol)?;
    // The gate has compared it with max_frame_bytes, which is a usize.
    let length = header.payload_bytes as usize;
    match (verdict, header.frame) {
        (Verdict::DropOld, _) => {
            add(&link.counters.frames_dropped_old, 1);
            skip(stream, length)
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
        (Verdict::Accept, FrameType::Abort) => {
            // Its fence of another epoch may follow.
            let reason = read_payload(&link, stream, &header, length)?;
            link.end(&End::PeerAborted(String::from_utf8_lossy(&reason).into_owned()));
            Ok(())
        }
        (Verdict::Accept, FrameType::Goodbye | FrameType::Fence) => Err(End::Closed),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rekindle_types::{Epoch, JobId, RankId};

    use super::*;
    use crate::hub::Hub;
    use crate::{Deadline, Identity, Options, Tag, TagKind};

    const MAX_FRAME: usize = 4096;

    fn identity(rank: u32) -> Identity {
        Identity {
            job: JobId::new("fuzz").unwrap(),
            epoch: Epoch(3),
            rank: RankId(rank),
            world: 2,
        }
    }

    fn hub() -> Hub {
        let options = Options {
            max_frame_bytes: MAX_FRAME,
            inbox_soft_bytes: 1 << 20,
            ..Options::default()
        };
        Hub::new(identity(1), &BTreeSet::from([RankId(0)]), &options)
    }

    fn tag(index: u32) -> Tag {
        Tag::new(TagKind::Eval, 1, index)
    }

    fn frame(index: u32, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            frame: FrameType::Data(tag(index)),
            job_hash: identity(0).job_hash(),
            epoch: Epoch(3),
            from: 0,
            to: 1,
            payload_bytes: payload.len() as u64,
            payload_checksum: Some(checksum(payload)),
        };
        [&header.encode()[..], payload].concat()
    }

    /// Gives at most `step` bytes per read.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let n = self.1.min(out.len()).min(self.0.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    proptest! {
        #[test]
        fn any_split_of_a_good_stream_gives_its_frames(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            step in 1_usize..500,
        ) {
            let hub = hub();
            let link = hub.link(RankId(0)).unwrap();
            let bytes: Vec<u8> = (0..).zip(&payloads).flat_map(|(i, p)| frame(i, p)).collect();
            prop_assert!(matches!(read_all(&Serving::new(link), Dribble(&bytes, step)), End::Reset(_)));
            for (i, payload) in (0..).zip(&payloads) {
                let got = link.inbox.wait(RankId(0), tag(i), Deadline::after(std::time::Duration::ZERO));
                let got = got.unwrap();
                prop_assert_eq!(got.bytes(), &payload[..]);
            }
        }

        #[test]
        fn garbage_ends_the_stream_and_allocates_nothing(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let hub = hub();
            let link = hub.link(RankId(0)).unwrap();
            let end = read_all(&Serving::new(link), &bytes[..]);
            prop_assert!(matches!(end, End::Protocol(_) | End::Reset(_)), "{:?}", end);
            prop_assert_eq!(link.pool.free_bytes(), 0);
        }

        /// A header that is well formed but says anything: what is read never exceeds the bounds.
        #[test]
        fn hostile_headers_stay_within_bounds(
            fields in prop::collection::vec((0_usize..60, any::<u8>()), 0..6),
            cut in 0_usize..400,
        ) {
            let hub = hub();
            let link = hub.link(RankId(0)).unwrap();
            let mut bytes = frame(0, &[7; 300]);
            for (at, value) in fields {
                bytes[at] = value;
            }
            let sum = checksum(&bytes[..60]);
            bytes[60..64].copy_from_slice(&sum.to_le_bytes());
            bytes.truncate(cut);
            let _end = read_all(&Serving::new(link), &bytes[..]);
            prop_assert!(link.counters.read().inbox_peak_bytes <= (MAX_FRAME + HEADER_BYTES) as u64);
            prop_assert!(link.pool.free_bytes() <= 2 * MAX_FRAME);
        }

        #[test]
        fn headers_survive_the_wire(job_hash: u64, epoch: u64, step: u64, index: u32, part: u32, from: u32, to: u32,
                                    payload_bytes: u64, payload_checksum: Option<u32>, kind in 0..TagKind::ALL.len()) {
            let tag = Tag { kind: TagKind::ALL[kind], step, index, part };
            let frame = FrameType::Data(tag);
            let header = Header { frame, job_hash, epoch: Epoch(epoch), from, to, payload_bytes, payload_checksum };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }
}
