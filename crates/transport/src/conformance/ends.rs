//! How waits end (TR-2, TR-6, TR-7).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rekindle_types::RankId;

use super::{Harness, far, on_each, small_queues, soon, tag, world};
use crate::{Deadline, Operation, Options, Payload, TransportError};

/// A deadline's error says what was waited for.
pub(super) fn deadlines_name_peer_and_tag(harness: &dyn Harness) {
    let world = world(harness, 2, &Options::default());
    let error = world[0].recv(RankId(1), tag(3), soon()).unwrap_err();
    match &error {
        TransportError::DeadlineExceeded {
            operation: Operation::Receive,
            peer,
            tag: Some(wanted),
            ..
        } => {
            assert_eq!((*peer, *wanted), (RankId(1), tag(3)));
        }
        _ => panic!("{error}"),
    }
    assert!(error.to_string().contains("Activation step 7 index 3"), "{error}");
    assert!(!error.is_peer_loss());
    let past = Deadline::after(Duration::ZERO);
    world[1]
        .send_slice(RankId(0), tag(3), &[1_u8], past)
        .expect("a queue with room needs no time");
    drop(world[0].recv(RankId(1), tag(3), far()).unwrap());
}

/// Of two threads that wait, the one that began first shows, and neither once it has what it waits for.
pub(super) fn a_wait_shows_whom_it_is_for(harness: &dyn Harness) {
    let world = world(harness, 3, &Options::default());
    let [a, b, c] = &world[..] else {
        panic!("three ranks")
    };
    let shows = |wanted: Option<(u32, u32)>| {
        let until = far();
        loop {
            let seen = a.blocked();
            let place = seen.and_then(|seen| Some((seen.on.0, seen.tag?.index)));
            if place == wanted {
                return seen;
            }
            assert!(until.remaining().is_some(), "{place:?}, not {wanted:?}");
            std::thread::yield_now();
        }
    };
    shows(None);
    std::thread::scope(|scope| {
        scope.spawn(|| drop(a.recv(RankId(2), tag(7), far()).unwrap()));
        let first = shows(Some((2, 7))).unwrap();
        assert_eq!(first.operation, Operation::Receive);
        assert!(
            first.to_string().contains("a frame (Activation step 7 index 7"),
            "{first}"
        );
        scope.spawn(|| drop(a.recv(RankId(1), tag(8), far()).unwrap()));
        c.send_slice(RankId(0), tag(7), &[1_u8], far()).unwrap();
        shows(Some((1, 8)));
        b.send_slice(RankId(0), tag(8), &[1_u8], far()).unwrap();
        shows(None);
    });
}

/// One rank aborts: its own waits end with `Aborted`, those of its peers for it with the peer's loss; peers
/// of each other are left alone.
pub(super) fn abort_frees_everybody(harness: &dyn Harness) {
    let world = world(harness, 3, &small_queues());
    let waiting = AtomicUsize::new(0);
    let arrive = || {
        waiting.fetch_add(1, Ordering::SeqCst);
    };
    std::thread::scope(|scope| {
        let [a, b, _] = &world[..] else {
            panic!("three ranks")
        };
        scope.spawn(|| {
            arrive();
            let error = a.recv(RankId(1), tag(0), far()).unwrap_err();
            assert!(
                matches!(&error, TransportError::Aborted { reason } if reason == "new plan"),
                "{error}"
            );
        });
        scope.spawn(|| {
            arrive();
            let error = loop {
                if let Err(error) = a.send(RankId(2), tag(0), Payload::vec(vec![0_u8; 100_000]), far()) {
                    break error;
                }
            };
            assert!(matches!(error, TransportError::Aborted { .. }), "{error}");
        });
        scope.spawn(|| {
            arrive();
            let error = b.recv(RankId(0), tag(9), far()).unwrap_err();
            assert_eq!(error.lost_peer(), Some(RankId(0)), "{error}");
        });
        while waiting.load(Ordering::SeqCst) < 3 {
            std::thread::yield_now();
        }
        // Not needed for the check, only makes it likely that they block already.
        std::thread::sleep(Duration::from_millis(50));
        a.abort("new plan");
        a.abort("a later reason doesn't count");
    });
    let error = world[0]
        .send(RankId(1), tag(0), Payload::empty(), far())
        .unwrap_err();
    assert!(error.to_string().contains("new plan"), "{error}");
    assert!(matches!(
        world[0].flush(far()),
        Err(TransportError::Aborted { .. }) | Ok(())
    ));
    let error = world[2].recv(RankId(0), tag(9), far()).unwrap_err();
    assert_eq!(error.lost_peer(), Some(RankId(0)), "{error}");
    world[1].send_slice(RankId(2), tag(5), &[5_u8], far()).unwrap();
    assert_eq!(world[2].recv(RankId(1), tag(5), far()).unwrap().bytes(), [5]);
}

/// Frames sent before closing arrive, then the end does.
pub(super) fn close_delivers_what_was_sent(harness: &dyn Harness) {
    let mut world = world(harness, 2, &Options::default());
    let b = world.pop().unwrap();
    let a = world.pop().unwrap();
    for i in 0..20_u32 {
        a.send(RankId(1), tag(i), Payload::vec(vec![i; 50_000]), far())
            .unwrap();
    }
    b.send_slice(RankId(0), tag(0), &[0_u8; 1000], far()).unwrap();
    b.flush(far()).unwrap();
    drop(a);
    for i in (0..20_u32).rev() {
        assert_eq!(
            b.recv(RankId(0), tag(i), far())
                .unwrap()
                .slice_of::<u32>(50_000)
                .unwrap()[49_999],
            i
        );
    }
    let error = b.recv(RankId(0), tag(0), far()).unwrap_err();
    assert!(
        matches!(error, TransportError::PeerClosed { rank: RankId(0) }),
        "{error}"
    );
    let error = b.send(RankId(0), tag(0), Payload::empty(), far()).unwrap_err();
    assert_eq!(error.lost_peer(), Some(RankId(0)), "{error}");
}

/// A wait for another rank isn't touched.
pub(super) fn close_ends_waits_for_this_rank_only(harness: &dyn Harness) {
    let mut world = world(harness, 3, &Options::default());
    drop(world.pop());
    let lost = on_each(&world, |t| {
        t.recv(RankId(2), tag(0), far()).unwrap_err().lost_peer()
    });
    assert_eq!(lost, [Some(RankId(2)); 2]);
    world[0].send_slice(RankId(1), tag(0), &[1_u8], far()).unwrap();
    assert_eq!(world[1].recv(RankId(0), tag(0), far()).unwrap().bytes(), [1]);
}

/// Wrong peers and sizes are refused before anything is sent.
pub(super) fn misuse_is_named(harness: &dyn Harness) {
    let options = Options {
        max_frame_bytes: 1000,
        ..Options::default()
    };
    let world = world(harness, 2, &options);
    for rank in [RankId(0), RankId(2)] {
        let error = world[0].recv(rank, tag(0), far()).unwrap_err();
        assert!(matches!(error, TransportError::NotLinked { .. }), "{error}");
        assert!(world[0].send(rank, tag(0), Payload::empty(), far()).is_err());
    }
    let error = world[0]
        .send(RankId(1), tag(0), Payload::vec(vec![0_u8; 1001]), far())
        .unwrap_err();
    assert!(
        matches!(
            error,
            TransportError::FrameTooLarge {
                bytes: 1001,
                limit: 1000,
                ..
            }
        ),
        "{error}"
    );
    world[0]
        .send(RankId(1), tag(0), Payload::vec(vec![0_u8; 1000]), far())
        .unwrap();
    assert_eq!(world[1].recv(RankId(0), tag(0), far()).unwrap().len(), 1000);
}
