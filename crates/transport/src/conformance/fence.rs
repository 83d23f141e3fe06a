//! Nothing from another job, epoch or world comes in (TR-5).

use std::time::Duration;

use rekindle_types::{Epoch, JobId, RankId};

use super::{Boxed, EPOCH, Forger, Harness, far, job, member, tag};
use crate::wire::{FrameType, HEADER_BYTES, Header, checksum};
use crate::{Deadline, Identity, Options, ProtocolError, TransportError};

fn header(payload: &[u8]) -> Header {
    Header {
        frame: FrameType::Data(tag(0)),
        job_hash: member(0, 2).job_hash(),
        epoch: EPOCH,
        from: 0,
        to: 1,
        payload_bytes: payload.len() as u64,
        payload_checksum: Some(checksum(payload)),
    }
}

/// Members that don't belong together get an error each; it names both where the other end is known.
pub(super) fn foreign_members_are_refused(harness: &dyn Harness) {
    let ours = member(0, 2);
    let theirs = member(1, 2);
    let foreign = [
        Identity {
            job: JobId::new("other").unwrap(),
            ..theirs.clone()
        },
        Identity {
            epoch: Epoch(4),
            ..theirs.clone()
        },
        Identity {
            epoch: Epoch(6),
            ..theirs.clone()
        },
        Identity { world: 3, ..theirs },
    ];
    for other in foreign {
        let deadline = Deadline::after(Duration::from_millis(300));
        let results = harness.connect(&[ours.clone(), other.clone()], &Options::default(), deadline);
        for (result, far_end) in results.into_iter().zip([&other, &ours]) {
            let Err(error) = result else {
                panic!("{ours} got a connection to {other}")
            };
            let text = error.to_string();
            let known = [far_end.job.to_string(), far_end.epoch.to_string()];
            assert!(
                known.iter().all(|word| text.contains(word)),
                "{text} doesn't name {far_end}"
            );
        }
    }
}

fn recv_error(t: &Boxed) -> ProtocolError {
    match t.recv(RankId(0), tag(0), far()) {
        Err(TransportError::Protocol {
            rank: RankId(0),
            source,
        }) => source,
        other => panic!("{other:?}"),
    }
}

/// A late frame of the epoch before does no harm.
pub(super) fn older_frames_are_dropped_and_counted(harness: &dyn Harness) {
    let (t, mut forger) = harness.forge(&Options::default());
    let old = Header {
        epoch: Epoch(4),
        ..header(b"old")
    };
    forger.send(&old.encode(), b"old");
    forger.send(&header(b"new").encode(), b"new");
    assert_eq!(t.recv(RankId(0), tag(0), far()).unwrap().bytes(), b"new");
    assert_eq!(t.stats().peers[&RankId(0)].frames_dropped_old, 1);
}

/// Every kind of foreign frame has its own error, for receivers and senders alike.
pub(super) fn foreign_frames_end_the_connection(harness: &dyn Harness) {
    let options = Options {
        max_frame_bytes: 1000,
        ..Options::default()
    };
    let other_job = Identity {
        job: JobId::new("other").unwrap(),
        ..member(0, 2)
    };
    assert_ne!(other_job.job, job());
    let good = header(b"x");
    type Expected = fn(&ProtocolError) -> bool;
    let cases: [(Header, Expected); 5] = [
        (
            Header {
                job_hash: other_job.job_hash(),
                ..good
            },
            |e| matches!(e, ProtocolError::WrongJob { .. }),
        ),
        (
            Header {
                epoch: Epoch(6),
                ..good
            },
            |e| {
                matches!(
                    e,
                    ProtocolError::NewerEpoch {
                        found: Epoch(6),
                        ours: EPOCH
                    }
                )
            },
        ),
        (Header { from: 1, ..good }, |e| {
            matches!(e, ProtocolError::WrongRank { from: 1, .. })
        }),
        (
            Header {
                payload_bytes: 1001,
                ..good
            },
            |e| {
                matches!(
                    e,
                    ProtocolError::Oversize {
                        bytes: 1001,
                        limit: 1000
                    }
                )
            },
        ),
        (
            Header {
                payload_bytes: u64::MAX,
                ..good
            },
            |e| matches!(e, ProtocolError::Oversize { .. }),
        ),
    ];
    for (forged, expected) in cases {
        let (t, mut forger) = harness.forge(&options);
        forger.send(&header(b"before").encode(), b"before");
        forger.send(&forged.encode(), b"x");
        assert_eq!(t.recv(RankId(0), tag(0), far()).unwrap().bytes(), b"before");
        let error = recv_error(&t);
        assert!(expected(&error), "{forged:?} gave {error}");
        let error = t.send_slice(RankId(0), tag(0), &[1_u8], far()).unwrap_err();
        assert_eq!(error.lost_peer(), Some(RankId(0)), "{error}");
    }
}

/// Bytes that are no header at all, and one flipped bit anywhere in a header.
pub(super) fn malformed_frames_end_the_connection(harness: &dyn Harness) {
    let send = |bytes: &[u8; HEADER_BYTES]| {
        let (t, mut forger): (Boxed, Box<dyn Forger>) = harness.forge(&Options::default());
        forger.send(bytes, b"");
        recv_error(&t)
    };
    assert!(matches!(
        send(&[0xAB; HEADER_BYTES]),
        ProtocolError::Malformed { .. }
    ));
    for byte in [4, 5, 6, 8, 20, 30, 44, 50, 60] {
        let mut bytes = header(b"").encode();
        bytes[byte] ^= 0x10;
        assert!(
            matches!(send(&bytes), ProtocolError::Checksum { what: "header", .. }),
            "byte {byte}"
        );
    }
    // Well formed, but nobody agreed on payloads apart, or announced one.
    for frame in [FrameType::Apart(tag(0)), FrameType::Ready] {
        let bytes = Header { frame, ..header(b"") }.encode();
        assert!(
            matches!(send(&bytes), ProtocolError::Malformed { .. }),
            "{frame:?}"
        );
    }
}
