//! Bounded memory, and no deadlock because of it (TR-3, TR-4).

use rekindle_types::RankId;

use super::{Harness, far, on_each, small_queues, soon, tag, world};
use crate::wire::HEADER_BYTES;
use crate::{Operation, Options, Payload, Transport, TransportError};

const CHUNK: usize = 64 << 10;

fn chunk(t: &dyn Transport, mark: u32) -> Payload {
    let mut buffer = t.pool().take(CHUNK);
    buffer.fill(0);
    buffer[..4].copy_from_slice(&mark.to_le_bytes());
    buffer.into()
}

/// Sends chunks until `send` meets its deadline; returns how many went.
fn fill(t: &dyn Transport, to: RankId) -> u32 {
    for i in 0..2000 {
        match t.send(to, tag(0), chunk(t, i), soon()) {
            Ok(()) => {}
            Err(TransportError::DeadlineExceeded {
                operation: Operation::Send,
                peer,
                tag: Some(_),
                ..
            }) => {
                assert_eq!(peer, to);
                return i;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nothing held the sender back");
}

fn peaks(t: &dyn Transport, peer: RankId) -> (usize, usize) {
    let stats = t.stats().peers[&peer];
    (stats.inbox_peak_bytes as usize, stats.outbox_peak_bytes as usize)
}

/// A receiver that computes holds back its sender; both queues stay within their bounds; nothing is lost.
pub(super) fn slow_receiver_slows_the_sender(harness: &dyn Harness) {
    let options = small_queues();
    let world = world(harness, 2, &options);
    let sent = fill(&*world[0], RankId(1));
    let inbox = peaks(&*world[1], RankId(0)).0;
    assert!(inbox <= options.inbox_soft_bytes, "inbox held {inbox}");
    assert!(peaks(&*world[0], RankId(1)).1 <= options.outbox_bytes);
    assert!(world[0].stats().peers[&RankId(1)].send_blocked > std::time::Duration::ZERO);
    for i in 0..sent {
        let frame = world[1].recv(RankId(0), tag(0), far()).unwrap();
        assert_eq!(frame.as_slice::<u32>().unwrap()[0], i);
    }
}

/// The same with frames so small that only their number counts.
pub(super) fn frame_count_is_bounded(harness: &dyn Harness) {
    let options = Options {
        inbox_soft_bytes: 100 * HEADER_BYTES,
        ..small_queues()
    };
    let world = world(harness, 2, &options);
    let mut sent = 0_u32;
    while world[0].send(RankId(1), tag(0), Payload::empty(), soon()).is_ok() {
        sent += 1;
        assert!(sent < 1_000_000, "nothing held the sender back");
    }
    let (inbox, _) = peaks(&*world[1], RankId(0));
    assert!(inbox <= options.inbox_soft_bytes, "inbox held {inbox}");
    for _ in 0..sent {
        world[1].recv(RankId(0), tag(0), far()).unwrap();
    }
}

/// What a receiver waits for may be behind more than the soft bound.
pub(super) fn waiting_receiver_reads_past_the_soft_bound(harness: &dyn Harness) {
    let options = small_queues();
    let world = world(harness, 2, &options);
    on_each(&world, |t| {
        if t.rank() == RankId(0) {
            (0..100).for_each(|i| t.send(RankId(1), tag(0), chunk(t, i), far()).unwrap());
            t.send_slice(RankId(1), tag(1), &[42_u8], far()).unwrap();
        } else {
            assert_eq!(t.recv(RankId(0), tag(1), far()).unwrap().bytes(), [42]);
            (0..100).for_each(|_| drop(t.recv(RankId(0), tag(0), far()).unwrap()));
        }
    });
    let inbox = peaks(&*world[1], RankId(0)).0;
    assert!(
        inbox > options.inbox_soft_bytes && inbox <= options.inbox_hard_bytes,
        "inbox held {inbox}"
    );
}

/// Behind more than the hard bound it can't come: the receiver is told, and can go on by taking what there
/// is.
pub(super) fn stuck_receiver_is_told(harness: &dyn Harness) {
    let options = Options {
        inbox_hard_bytes: 2 << 20,
        ..small_queues()
    };
    let world = world(harness, 2, &options);
    on_each(&world, |t| {
        if t.rank() == RankId(0) {
            (0..100).for_each(|i| t.send(RankId(1), tag(0), chunk(t, i), far()).unwrap());
            t.send_slice(RankId(1), tag(1), &[42_u8], far()).unwrap();
        } else {
            let error = t.recv(RankId(0), tag(1), far()).unwrap_err();
            assert!(
                matches!(error, TransportError::InboxFull { from: RankId(0), .. }),
                "{error}"
            );
            (0..100).for_each(|_| drop(t.recv(RankId(0), tag(0), far()).unwrap()));
            assert_eq!(t.recv(RankId(0), tag(1), far()).unwrap().bytes(), [42]);
        }
    });
    assert!(peaks(&*world[1], RankId(0)).0 <= options.inbox_hard_bytes);
}

/// Several threads send to one peer through a line that is often full: no frame is torn, and each thread's
/// stay in order.
pub(super) fn many_threads_one_peer(harness: &dyn Harness) {
    const THREADS: u32 = 4;
    const FRAMES: u32 = 150;
    let world = world(harness, 2, &small_queues());
    let (a, b) = (&*world[0], &*world[1]);
    let payload = |thread: u32, i: u32| vec![thread << 16 | i; 1 + (i as usize * 977) % (CHUNK / 4)];
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                (0..FRAMES).for_each(|i| {
                    a.send_slice(RankId(1), tag(thread), &payload(thread, i), far())
                        .unwrap()
                });
            });
        }
        for i in 0..FRAMES {
            for thread in 0..THREADS {
                let frame = b.recv(RankId(0), tag(thread), far()).unwrap();
                assert!(
                    frame.as_slice::<u32>().unwrap() == payload(thread, i),
                    "thread {thread} frame {i}"
                );
            }
        }
    });
}

/// Two ranks that both send more than all queues hold before they receive.
pub(super) fn crossing_sends_complete(harness: &dyn Harness) {
    let world = world(harness, 2, &small_queues());
    on_each(&world, |t| {
        let peer = RankId(1 - t.rank().0);
        (0..150).for_each(|i| t.send(peer, tag(0), chunk(t, i), far()).unwrap());
        (0..150).for_each(|_| drop(t.recv(peer, tag(0), far()).unwrap()));
    });
}

/// 0 waits for 1, 1 for 2, and 2 can't go on before 0 has taken its many frames, which 0 doesn't ask for yet.
pub(super) fn waiting_for_each_other_through_a_third(harness: &dyn Harness) {
    let world = world(harness, 3, &small_queues());
    on_each(&world, |t| match t.rank().0 {
        0 => {
            drop(t.recv(RankId(1), tag(1), far()).unwrap());
            (0..100).for_each(|_| drop(t.recv(RankId(2), tag(0), far()).unwrap()));
        }
        1 => {
            let frame = t.recv(RankId(2), tag(1), far()).unwrap();
            t.send(RankId(0), tag(1), frame.into(), far()).unwrap();
        }
        _ => {
            (0..100).for_each(|i| t.send(RankId(0), tag(0), chunk(t, i), far()).unwrap());
            t.send_slice(RankId(1), tag(1), &[1_u8], far()).unwrap();
        }
    });
}
