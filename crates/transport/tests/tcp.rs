//! What only TCP has: handshakes, strangers, peers that die, the next epoch on the same port, peers that don't follow
//! there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use rekindle_transport::conformance::{EPOCH, Harness, Tcp, member};
use rekindle_transport::tcp::{Edit, GREETING_BYTES, Greeting, PROTOCOL_VERSION};
use rekindle_transport::wire::{FrameType, Header, checksum};
use rekindle_transport::{
    Deadline, Identity, Options, Payload, RefusalReason, Tag, TagKind, TcpEndpoint, TcpTransport, Transport,
    TransportError,
};
use rekindle_types::{Epoch, RankId};

fn far() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn tag() -> Tag {
    Tag::new(TagKind::State, 1, 2)
}

fn bind() -> TcpEndpoint {
    TcpEndpoint::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

fn at(rank: u32, epoch: u64) -> Identity {
    Identity {
        epoch: Epoch(epoch),
        ..member(rank, 2)
    }
}

fn connect(
    endpoint: &TcpEndpoint,
    me: Identity,
    peer: u32,
    address: SocketAddr,
    deadline: Deadline,
) -> Result<TcpTransport, TransportError> {
    let peers = BTreeMap::from([(RankId(peer), address)]);
    endpoint.connect(
        me,
        &peers,
        &BTreeSet::from([RankId(peer)]),
        &Options::default(),
        deadline,
    )
}

fn hello(version: u16) -> [u8; GREETING_BYTES] {
    Greeting {
        version,
        refusal: None,
        from: member(0, 2),
        to: RankId(1),
    }
    .encode()
}

/// A raw stream that has shaken hands as rank 0 with a real rank 1.
fn raw_peer() -> (TcpTransport, TcpStream) {
    let endpoint = bind();
    let mut stream = TcpStream::connect(endpoint.local_addr()).unwrap();
    stream.write_all(&hello(PROTOCOL_VERSION)).unwrap();
    let transport = connect(&endpoint, member(1, 2), 0, endpoint.local_addr(), far()).unwrap();
    stream.read_exact(&mut [0; GREETING_BYTES]).unwrap();
    (transport, stream)
}

fn header(payload_bytes: u64) -> Header {
    Header {
        frame: FrameType::Data(tag()),
        job_hash: member(0, 2).job_hash(),
        epoch: EPOCH,
        from: 0,
        to: 1,
        payload_bytes,
        payload_checksum: None,
    }
}

#[test]
fn a_vanished_peer_is_named_wherever_it_vanished() {
    let half_a_frame = [&header(1000).encode()[..], &[1; 500]].concat();
    for (bytes, what) in [
        (&[][..], "between"),
        (&half_a_frame[..30], "header"),
        (&half_a_frame[..], "payload"),
    ] {
        let (transport, mut stream) = raw_peer();
        stream.write_all(bytes).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| transport.recv(RankId(0), tag(), far()).unwrap_err());
            drop(stream);
            let error = waiting.join().unwrap();
            assert!(
                matches!(error, TransportError::PeerReset { rank: RankId(0), .. }),
                "{what}: {error}"
            );
        });
    }
}

#[test]
fn an_abort_carries_its_reason_to_the_peer() {
    let (a, b) = (bind(), bind());
    let (to_a, to_b) = (a.local_addr(), b.local_addr());
    std::thread::scope(|scope| {
        let peer = scope.spawn(|| {
            let peer = connect(&b, member(1, 2), 0, to_a, far()).unwrap();
            peer.recv(RankId(0), tag(), far()).unwrap_err()
        });
        let transport = connect(&a, member(0, 2), 1, to_b, far()).unwrap();
        transport.abort(&"é".repeat(5000));
        match peer.join().unwrap() {
            TransportError::PeerAborted {
                rank: RankId(0),
                reason,
            } => assert_eq!(reason, "é".repeat(512)),
            error => panic!("{error}"),
        }
    });
}

#[test]
fn a_peer_that_breaks_the_protocol_is_told_why() {
    let (transport, mut stream) = raw_peer();
    let wrong = Header {
        epoch: Epoch(9),
        ..header(0)
    };
    stream.write_all(&wrong.encode()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("rank 0 broke the protocol: frame of e9"));
    drop(transport);
}

#[test]
fn a_flipped_payload_bit_is_found_where_there_is_a_checksum() {
    let (transport, mut forger) = Tcp.forge(&Options::default());
    let mut header = header(4);
    header.payload_checksum = Some(checksum(b"good"));
    forger.send(&header.encode(), b"gone");
    let error = transport.recv(RankId(0), tag(), far()).unwrap_err();
    assert!(error.to_string().contains("payload checksum"), "{error}");
}

#[test]
fn strangers_hold_nobody_up() {
    let (a, b) = (bind(), bind());
    let mut strangers: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(b.local_addr()).unwrap())
        .collect();
    strangers[0].write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    strangers[1].write_all(&[0x5A; 500]).unwrap();
    strangers.truncate(6);
    std::thread::scope(|scope| {
        scope.spawn(|| connect(&a, member(0, 2), 1, b.local_addr(), far()).unwrap());
        connect(&b, member(1, 2), 0, a.local_addr(), far()).unwrap();
    });
}

#[test]
fn another_version_is_refused_by_name() {
    let endpoint = bind();
    let mut stream = TcpStream::connect(endpoint.local_addr()).unwrap();
    stream.write_all(&hello(PROTOCOL_VERSION + 1)).unwrap();
    let soon = Deadline::after(Duration::from_millis(200));
    let error = connect(&endpoint, member(1, 2), 0, endpoint.local_addr(), soon)
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("the protocol versions differ"),
        "{error}"
    );
    let mut reply = [0; GREETING_BYTES];
    stream.read_exact(&mut reply).unwrap();
    let reply = Greeting::decode(&reply).unwrap();
    assert_eq!(
        (reply.refusal, reply.from),
        (Some(RefusalReason::Version), member(1, 2))
    );
}

#[test]
fn a_stale_caller_fails_at_once_and_a_late_peer_is_awaited() {
    let (a, b) = (bind(), bind());
    let (to_a, to_b) = (a.local_addr(), b.local_addr());
    std::thread::scope(|scope| {
        // Rank 0 is ahead: rank 1 refuses it at epoch 5, then comes to epoch 6 through the same port.
        let ahead = scope.spawn(move || connect(&a, at(0, 6), 1, to_b, far()));
        let soon = Deadline::after(Duration::from_millis(200));
        let error = connect(&b, at(1, 5), 0, to_a, soon).err().unwrap();
        assert!(
            error
                .to_string()
                .contains("refused rank 0 of 2 in job conformance at e6"),
            "{error}"
        );
        let late = connect(&b, at(1, 6), 0, to_a, far()).unwrap();
        let ahead = ahead.join().unwrap().unwrap();
        (&ahead as &dyn Transport)
            .send_slice(RankId(1), tag(), &[6_u8], far())
            .unwrap();
        assert_eq!(late.recv(RankId(0), tag(), far()).unwrap().bytes(), [6]);
        // Now a caller of the epoch before: it gets the refusal, not a deadline.
        let stale_endpoint = bind();
        let stale = scope.spawn(move || connect(&stale_endpoint, at(0, 5), 1, to_b, far()).err().unwrap());
        let soon = Deadline::after(Duration::from_millis(500));
        assert!(connect(&b, at(1, 7), 0, to_a, soon).is_err());
        let error = stale.join().unwrap();
        assert!(
            matches!(
                error,
                TransportError::Refused {
                    reason: RefusalReason::Epoch,
                    ..
                }
            ),
            "{error}"
        );
    });
}

#[test]
fn links_are_checked_before_anything_is_dialled() {
    let endpoint = bind();
    let try_links = |links: &[u32]| {
        let links = links.iter().copied().map(RankId).collect();
        endpoint
            .connect(member(0, 2), &BTreeMap::new(), &links, &Options::default(), far())
            .err()
    };
    assert!(try_links(&[]).is_none(), "a rank without links needs nobody");
    assert!(matches!(
        try_links(&[0]),
        Some(TransportError::Options { option: "links", .. })
    ));
    assert!(matches!(
        try_links(&[2]),
        Some(TransportError::Options { option: "links", .. })
    ));
    assert!(matches!(
        try_links(&[1]),
        Some(TransportError::NotLinked { rank: RankId(1) })
    ));
}

const CHILD: &str = "REKINDLE_TRANSPORT_TEST_CHILD";

/// Runs as a process of its own in the next test: connects as rank 0, says so, and waits to be killed.
#[test]
fn child_process() {
    let Ok(address) = std::env::var(CHILD) else { return };
    let transport = connect(&bind(), member(0, 2), 1, address.parse().unwrap(), far()).unwrap();
    (&transport as &dyn Transport)
        .send_slice(RankId(1), tag(), &[1_u8], far())
        .unwrap();
    drop(transport.recv(RankId(1), tag(), far()));
}

#[test]
fn a_killed_process_fails_the_waits_for_it() {
    let endpoint = bind();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process"])
        .env(CHILD, endpoint.local_addr().to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let transport = connect(&endpoint, member(1, 2), 0, endpoint.local_addr(), far()).unwrap();
    assert_eq!(transport.recv(RankId(0), tag(), far()).unwrap().bytes(), [1]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| transport.recv(RankId(0), tag(), far()).unwrap_err());
        child.kill().unwrap();
        let error = waiting.join().unwrap();
        assert!(
            matches!(error, TransportError::PeerReset { rank: RankId(0), .. }),
            "{error}"
        );
    });
    child.wait().unwrap();
}

/// Ranks 0 and 1 at epoch 5, with their endpoints.
fn two() -> [(TcpEndpoint, TcpTransport); 2] {
    let (a, b) = (bind(), bind());
    let (to_a, to_b) = (a.local_addr(), b.local_addr());
    let (first, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| connect(&b, at(1, 5), 0, to_a, far()).unwrap());
        let first = connect(&a, at(0, 5), 1, to_b, far()).unwrap();
        (first, other.join().unwrap())
    });
    [(a, first), (b, other)]
}

fn edit(
    (endpoint, before): &(TcpEndpoint, TcpTransport),
    me: Identity,
    peer: SocketAddr,
    deadline: Deadline,
) -> Result<(TcpTransport, BTreeSet<RankId>), TransportError> {
    let links = BTreeSet::from([RankId(1 - me.rank.0)]);
    let options = Options {
        handshake: Duration::from_millis(150),
        ..Options::default()
    };
    let edit = Edit {
        me,
        peers: &links.iter().map(|rank| (*rank, peer)).collect(),
        links: &links,
        stay: &links,
        options: &options,
    };
    endpoint.edit(before, &edit, deadline)
}

/// Whichever of the two is late: the other one gives the connection up, and both make a new one.
#[test]
fn a_peer_that_doesnt_follow_in_time_is_connected_anew() {
    for late in [0, 1] {
        let [a, b] = two();
        let (to_a, to_b) = (a.0.local_addr(), b.0.local_addr());
        let wait = |rank| {
            if rank == late {
                std::thread::sleep(Duration::from_millis(400));
            }
        };
        let (near, away) = std::thread::scope(|scope| {
            let away = scope.spawn(|| {
                wait(1);
                edit(&b, at(1, 6), to_a, far()).unwrap()
            });
            wait(0);
            (edit(&a, at(0, 6), to_b, far()).unwrap(), away.join().unwrap())
        });
        assert_eq!((near.1.len(), away.1.len()), (0, 0), "rank {late} was late");
        near.0
            .send(RankId(1), tag(), Payload::vec(vec![6_u8]), far())
            .unwrap();
        assert_eq!(away.0.recv(RankId(0), tag(), far()).unwrap().bytes(), [6]);
    }
}

/// A process that ends and begins again at the same address, while the other end takes it for the old one.
#[test]
fn a_connection_that_ends_meanwhile_is_made_anew() {
    let [a, (endpoint, before)] = two();
    let (to_a, to_b) = (a.0.local_addr(), endpoint.local_addr());
    std::thread::scope(|scope| {
        let goes_on = scope.spawn(|| edit(&a, at(0, 6), to_b, far()).unwrap());
        std::thread::sleep(Duration::from_millis(30));
        before.close(Deadline::after(Duration::ZERO));
        let again = connect(&endpoint, at(1, 6), 0, to_a, far()).unwrap();
        let (near, kept) = goes_on.join().unwrap();
        assert!(kept.is_empty());
        near.send(RankId(1), tag(), Payload::vec(vec![6_u8]), far())
            .unwrap();
        assert_eq!(again.recv(RankId(0), tag(), far()).unwrap().bytes(), [6]);
    });
}

#[test]
fn an_edit_that_nobody_follows_ends_by_its_deadline_and_one_to_no_newer_epoch_changes_nothing() {
    let [a, b] = two();
    for me in [at(0, 5), at(0, 4), at(1, 6)] {
        let error = edit(&a, me, b.0.local_addr(), far()).err().unwrap();
        assert!(matches!(error, TransportError::Options { .. }), "{error}");
    }
    a.1.send(RankId(1), tag(), Payload::vec(vec![5_u8]), far())
        .unwrap();
    assert_eq!(b.1.recv(RankId(0), tag(), far()).unwrap().bytes(), [5]);
    let soon = Deadline::after(Duration::from_millis(300));
    let error = edit(&a, at(0, 6), b.0.local_addr(), soon).err().unwrap();
    let TransportError::ConnectDeadline { missing, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(missing, &[RankId(1)]);
    let error = a.1.recv(RankId(1), tag(), far()).unwrap_err();
    assert!(matches!(error, TransportError::Aborted { .. }), "{error}");
    let error = b.1.recv(RankId(0), tag(), far()).unwrap_err();
    assert_eq!(error.lost_peer(), Some(RankId(0)), "{error}");
}
