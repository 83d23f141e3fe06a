//! Streams that nobody trusts: split anywhere, garbage, and headers that say anything.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rekindle_types::{Epoch, JobId, RankId};

use super::*;
use crate::hub::Hub;
use crate::{Deadline, Identity, Options, TagKind};

const MAX_FRAME: usize = 4096;

fn identity(rank: u32) -> Identity {
    Identity {
        job: JobId::new("fuzz").unwrap(),
        epoch: Epoch(3),
        rank: RankId(rank),
        world: 2,
    }
}

/// What a slice says.
struct Blind;

impl Glance for Blind {
    fn hung_up(&self) -> bool {
        false
    }

    fn readable(&self) -> bool {
        false
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
        prop_assert!(matches!(read_all(&Serving::new(link), Dribble(&bytes, step), &Blind), End::Reset(_)));
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
        let end = read_all(&Serving::new(link), &bytes[..], &Blind);
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
        let _end = read_all(&Serving::new(link), &bytes[..], &Blind);
        prop_assert!(link.counters.read().inbox_peak_bytes <= (MAX_FRAME + HEADER_BYTES) as u64);
        prop_assert!(link.pool.free_bytes() <= 2 * MAX_FRAME);
    }

    #[test]
    fn headers_survive_the_wire(job_hash: u64, epoch: u64, step: u64, index: u32, part: u32, from: u32, to: u32,
                                payload_bytes: u64, payload_checksum: Option<u32>, kind in 0..TagKind::ALL.len(), of in 0..6_usize) {
        let tag = Tag { kind: TagKind::ALL[kind], step, index, part };
        let all = [FrameType::Data(tag), FrameType::Goodbye, FrameType::Abort, FrameType::Fence, FrameType::Apart(tag), FrameType::Ready];
        let frame = all[of];
        let header = Header { frame, job_hash, epoch: Epoch(epoch), from, to, payload_bytes, payload_checksum };
        prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
    }
}
