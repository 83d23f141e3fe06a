//! What arrives, in which order, and in what shape.

use std::sync::Arc;

use rekindle_types::RankId;

use super::{Harness, far, on_each, soon, tag, world};
use crate::{ByteOwner, Options, Payload, TransportError};

/// TR-1 with two tags in turns.
pub(super) fn order_per_tag(harness: &dyn Harness) {
    let world = world(harness, 2, &Options::default());
    on_each(&world, |t| {
        let peer = RankId(1 - t.rank().0);
        for i in 0..200_u32 {
            t.send_slice(peer, tag(i % 2), &[i], far()).unwrap();
        }
        for i in 0..200_u32 {
            let frame = t.recv(peer, tag(i % 2), far()).unwrap();
            assert_eq!((frame.from(), frame.tag()), (peer, tag(i % 2)));
            assert_eq!(frame.slice_of::<u32>(1).unwrap(), [i]);
        }
        assert!(
            t.try_recv(peer, tag(0)).unwrap().is_none(),
            "each frame arrives once"
        );
    });
}

/// The receiver chooses the order of tags.
pub(super) fn any_tag_order(harness: &dyn Harness) {
    let world = world(harness, 3, &Options::default());
    on_each(&world, |t| {
        let others: Vec<_> = (0..3).map(RankId).filter(|&r| r != t.rank()).collect();
        for i in 0..50_u32 {
            for &to in &others {
                t.send_slice(to, tag(i), &[t.rank().0 * 1000 + i], far()).unwrap();
            }
        }
        for i in (0..50_u32).rev() {
            for &from in &others {
                let mut got = [0_u32];
                t.recv_into(from, tag(i), &mut got, far()).unwrap();
                assert_eq!(got, [from.0 * 1000 + i]);
            }
        }
    });
}

/// 8 MiB frames crossing each other, checked byte by byte, aligned, with and without a checksum.
pub(super) fn big_frames_both_ways(harness: &dyn Harness) {
    for payload_checksum in [false, true] {
        let world = world(
            harness,
            2,
            &Options {
                payload_checksum,
                ..Options::default()
            },
        );
        on_each(&world, |t| {
            let peer = RankId(1 - t.rank().0);
            let words = |rank: u32, i: u32| {
                (0..1_u32 << 20).map(move |w| u64::from(w ^ i << 24) << 3 | u64::from(rank))
            };
            for i in 0..3 {
                t.send(
                    peer,
                    tag(i),
                    Payload::vec(words(t.rank().0, i).collect::<Vec<u64>>()),
                    far(),
                )
                .unwrap();
            }
            for i in 0..3 {
                let frame = t.recv(peer, tag(i), far()).unwrap();
                assert_eq!(frame.bytes().as_ptr() as usize % crate::ALIGNMENT, 0);
                assert!(
                    frame
                        .as_slice::<u64>()
                        .unwrap()
                        .iter()
                        .copied()
                        .eq(words(peer.0, i))
                );
            }
            let stats = t.stats().peers[&peer];
            assert_eq!((stats.frames_received, stats.bytes_received), (3, 3 << 23));
        });
    }
}

/// More frames than the queue holds, both ways, received while sending.
pub(super) fn many_small_frames(harness: &dyn Harness) {
    const FRAMES: u32 = 5000;
    let world = world(
        harness,
        2,
        &Options {
            outbox_frames: 100,
            ..Options::default()
        },
    );
    on_each(&world, |t| {
        let peer = RankId(1 - t.rank().0);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for i in 0..FRAMES {
                    t.send_slice(peer, tag(0), &[i], far()).unwrap();
                }
            });
            for i in 0..FRAMES {
                assert_eq!(
                    t.recv(peer, tag(0), far()).unwrap().slice_of::<u32>(1).unwrap(),
                    [i]
                );
            }
        });
        t.flush(far()).unwrap();
        assert_eq!(t.stats().peers[&peer].frames_sent, u64::from(FRAMES));
    });
}

/// Empty, shared by range, and a received frame sent on.
pub(super) fn payload_kinds(harness: &dyn Harness) {
    let world = world(harness, 2, &Options::default());
    let shared: Arc<dyn ByteOwner> = Arc::new(vec![1_u16, 2, 3, 4]);
    let (a, b) = (&world[0], &world[1]);
    a.send(RankId(1), tag(0), Payload::empty(), far()).unwrap();
    a.send(
        RankId(1),
        tag(1),
        Payload::shared_range(Arc::clone(&shared), 2..6).unwrap(),
        far(),
    )
    .unwrap();
    assert!(Payload::shared_range(shared, 6..9).is_none());
    assert!(b.recv(RankId(0), tag(0), far()).unwrap().is_empty());
    let frame = b.recv(RankId(0), tag(1), far()).unwrap();
    assert_eq!(frame.as_slice::<u16>().unwrap(), [2, 3]);
    b.send(RankId(0), tag(2), frame.into(), far()).unwrap();
    assert_eq!(
        a.recv(RankId(1), tag(2), far())
            .unwrap()
            .as_slice::<u16>()
            .unwrap(),
        [2, 3]
    );
}

/// A length that doesn't fit is an error that names both.
pub(super) fn sizes_are_checked(harness: &dyn Harness) {
    let world = world(harness, 2, &Options::default());
    world[0]
        .send_slice(RankId(1), tag(0), &[1_u8, 2, 3], far())
        .unwrap();
    let frame = world[1].recv(RankId(0), tag(0), far()).unwrap();
    assert!(matches!(
        frame.as_slice::<u16>(),
        Err(TransportError::SizeMismatch { found: 3, .. })
    ));
    assert!(matches!(
        frame.slice_of::<u8>(4),
        Err(TransportError::SizeMismatch { found: 3, .. })
    ));
    world[0]
        .send_slice(RankId(1), tag(0), &[1_u8, 2, 3], far())
        .unwrap();
    let error = world[1]
        .recv_into(RankId(0), tag(0), &mut [0_u32; 2], far())
        .unwrap_err();
    assert!(error.to_string().contains("3 bytes, expected 8"), "{error}");
    assert!(
        world[1].recv(RankId(0), tag(0), soon()).is_err(),
        "the frame is consumed"
    );
}
