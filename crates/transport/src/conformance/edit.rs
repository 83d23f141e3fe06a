//! Going over to another epoch: what stays, what is freed, and that nothing of the epoch before is delivered (TR-5).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rekindle_types::{Epoch, RankId};

use super::harnesses::stayed;
use super::{EPOCH, EditHarness, Forger, Mesh, far, member, small_queues, tag};
use crate::wire::{FrameType, Header, checksum};
use crate::{Deadline, Options, Payload, Transport};

fn edit(mesh: &mut dyn Mesh, epoch: Epoch, replaced: &[RankId]) -> Vec<BTreeSet<RankId>> {
    let results = mesh.edit(epoch, replaced).into_iter();
    results.map(|result| result.unwrap()).collect()
}

/// Every rank hears every other one, of this epoch.
fn all_hear_all(members: &[&dyn Transport], epoch: Epoch) {
    std::thread::scope(|scope| {
        for me in members {
            scope.spawn(move || {
                assert_eq!(me.epoch(), epoch);
                let others = || (0..me.world()).map(RankId).filter(|rank| *rank != me.rank());
                for to in others() {
                    me.send_slice(to, tag(1), &[epoch.0, u64::from(me.rank().0)], far())
                        .unwrap();
                }
                for from in others() {
                    let frame = me.recv(from, tag(1), far()).unwrap();
                    assert_eq!(frame.as_slice::<u64>().unwrap(), [epoch.0, u64::from(from.0)]);
                    assert!(
                        me.try_recv(from, tag(0)).unwrap().is_none(),
                        "of the epoch before"
                    );
                }
            });
        }
    });
}

/// One of four is another process: links between the other three stay, frames that nobody asked for are gone.
pub(super) fn an_edit_keeps_links_of_those_that_stay(harness: &dyn EditHarness) {
    let mut mesh = harness.mesh(4, &Options::default());
    for (epoch, replaced) in [(6, Some(2)), (7, None), (9, Some(0)), (10, Some(3))] {
        for me in mesh.members() {
            for to in (0..4).map(RankId).filter(|rank| *rank != me.rank()) {
                me.send_slice(to, tag(0), &[0_u8; 3000], far()).unwrap();
            }
        }
        let replaced: Vec<RankId> = replaced.into_iter().map(RankId).collect();
        let kept = edit(&mut *mesh, Epoch(epoch), &replaced);
        for (rank, kept) in (0..).zip(kept) {
            assert_eq!(
                kept,
                stayed(&member(rank, 4), &replaced),
                "rank {rank} at {epoch}"
            );
        }
        all_hear_all(&mesh.members(), Epoch(epoch));
    }
}

/// Rank 3 is gone; 0 learns of it, 1 waits for 0, 2 for 1. One that gives up frees the one that waits for it, and all
/// go on.
pub(super) fn an_edit_frees_those_that_wait_for_each_other(harness: &dyn EditHarness) {
    let mut mesh = harness.mesh(4, &Options::default());
    let waiting = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let members = mesh.members();
        for (rank, on) in [(1, 0), (2, 1)] {
            let (me, waiting) = (members[rank], &waiting);
            scope.spawn(move || {
                waiting.fetch_add(1, Ordering::SeqCst);
                let error = me.recv(RankId(on), tag(0), far()).unwrap_err();
                assert_eq!(error.lost_peer(), Some(RankId(on)), "{error}");
                me.abort("a peer gave up");
            });
        }
        while waiting.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        members[3].abort("dies");
        let error = members[0].recv(RankId(3), tag(0), far()).unwrap_err();
        assert_eq!(error.lost_peer(), Some(RankId(3)), "{error}");
        members[0].abort("lost rank 3");
    });
    let kept = edit(&mut *mesh, Epoch(6), &[RankId(3)]);
    assert_eq!(kept[1], BTreeSet::from([RankId(0), RankId(2)]));
    all_hear_all(&mesh.members(), Epoch(6));
}

/// Large frames are under way in both directions, and nobody takes them: what was begun is finished, so that what
/// follows is understood.
pub(super) fn an_edit_amid_large_frames_stays_in_step(harness: &dyn EditHarness) {
    let mut mesh = harness.mesh(2, &small_queues());
    for epoch in 6..16 {
        std::thread::scope(|scope| {
            for me in mesh.members() {
                scope.spawn(move || {
                    let peer = RankId(1 - me.rank().0);
                    // Until the queues of both ends are full, some of them in the middle of a frame.
                    let soon = Deadline::after(Duration::from_millis(20));
                    let mut sent = 0;
                    let frame = || Payload::vec(vec![7_u8; 99_991]);
                    while me.send(peer, tag(0), frame(), soon).is_ok() {
                        sent += 1;
                    }
                    assert!(sent > 3);
                });
            }
        });
        let kept = edit(&mut *mesh, Epoch(epoch), &[]);
        assert_eq!(kept.iter().map(BTreeSet::len).sum::<usize>(), 2, "{kept:?}");
        all_hear_all(&mesh.members(), Epoch(epoch));
    }
}

/// A frame of an epoch that tells it from others by its content.
pub(crate) fn frame(epoch: Epoch, payload: &[u8]) -> Header {
    Header {
        frame: FrameType::Data(tag(0)),
        job_hash: member(0, 2).job_hash(),
        epoch,
        from: 0,
        to: 1,
        payload_bytes: payload.len() as u64,
        payload_checksum: Some(checksum(payload)),
    }
}

/// Whether they lie in the inbox, come while the rank goes over, or afterwards.
pub(super) fn frames_of_the_epoch_before_come_late_in_vain(harness: &dyn EditHarness) {
    let (mut mesh, mut forger) = harness.forge_mesh(&Options::default());
    let next = Epoch(EPOCH.0 + 1);
    let send = |forger: &mut dyn Forger, epoch, payload: &[u8]| {
        forger.send(&frame(epoch, payload).encode(), payload);
    };
    send(&mut *forger, EPOCH, b"early");
    std::thread::scope(|scope| {
        let edits = scope.spawn(|| edit(&mut *mesh, next, &[]));
        // Likely to come after the rank has turned.
        std::thread::sleep(Duration::from_millis(30));
        send(&mut *forger, EPOCH, b"late");
        let fence = Header {
            frame: FrameType::Fence,
            payload_bytes: 0,
            payload_checksum: None,
            ..frame(next, b"")
        };
        forger.send(&fence.encode(), b"");
        assert_eq!(edits.join().unwrap(), [BTreeSet::from([RankId(0)])]);
    });
    send(&mut *forger, EPOCH, b"too late");
    send(&mut *forger, next, b"new");
    let members = mesh.members();
    let got = members[0].recv(RankId(0), tag(0), far()).unwrap();
    assert_eq!(got.bytes(), b"new");
    assert!(members[0].try_recv(RankId(0), tag(0)).unwrap().is_none());
    assert!(members[0].stats().peers[&RankId(0)].frames_dropped_old >= 1);
}
