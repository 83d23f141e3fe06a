//! What hangs, dies or fails: every wait ends by name, and nothing is called that could deadlock.

use std::time::{Duration, Instant};

use rekindle_compute::cuda::nccl::Code;
use rekindle_transport::conformance::member;
use rekindle_transport::nccl::{NcclEndpoint, NcclOptions, NcclTransport};
use rekindle_transport::{Deadline, Options, Payload, Tag, TagKind, TcpEndpoint, Transport, TransportError};
use rekindle_types::RankId;

use super::conformance::{connect, endpoint};
use super::simulated::{Cluster, VERSION};

const TAG: Tag = Tag::new(TagKind::Activation, 1, 2);
const LONG: usize = 100_000;

fn far() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Bounds that only a hang reaches, but for those that a test shortens.
fn patient() -> NcclOptions {
    NcclOptions {
        transfer: Duration::from_secs(3600),
        hang_up: Duration::from_millis(50),
        least_bytes: 1000,
        ..NcclOptions::default()
    }
}

fn world(cluster: &Cluster, ranks: u32, options: &NcclOptions) -> Vec<NcclTransport> {
    let endpoints: Vec<_> = (0..ranks).map(|_| endpoint(cluster, options)).collect();
    joined(&endpoints)
}

fn joined(endpoints: &[NcclEndpoint]) -> Vec<NcclTransport> {
    let ranks = u32::try_from(endpoints.len()).unwrap();
    let members: Vec<_> = (0..ranks).map(|rank| member(rank, ranks)).collect();
    let world = connect(
        &members,
        &endpoints.iter().collect::<Vec<_>>(),
        &Options::default(),
        far(),
    );
    world.into_iter().map(Result::unwrap).collect()
}

fn long() -> Payload {
    Payload::vec(vec![7_u8; LONG])
}

fn until(what: impl Fn() -> bool) {
    let deadline = far();
    while !what() {
        assert!(deadline.remaining().is_some(), "it never came to that");
        std::thread::yield_now();
    }
}

/// Both ends are in the middle of a transfer that doesn't get on.
fn stuck_transfer(cluster: &Cluster, world: &[NcclTransport]) {
    cluster.freeze(1);
    world[0].send(RankId(1), TAG, long(), far()).unwrap();
    until(|| cluster.waits(0) && cluster.waits(1));
}

#[test]
fn long_payloads_go_through_nccl_and_short_ones_do_not() {
    let cluster = Cluster::default();
    let world = world(&cluster, 2, &patient());
    assert!(world[0].through_nccl().eq([RankId(1)]));
    for (bytes, transfers) in [(999, 0), (1000, 1), (LONG, 2)] {
        world[0]
            .send(RankId(1), TAG, Payload::vec(vec![1_u8; bytes]), far())
            .unwrap();
        assert_eq!(world[1].recv(RankId(0), TAG, far()).unwrap().len(), bytes);
        assert_eq!(cluster.transfers(), transfers);
    }
    drop(world);
    cluster.check();
}

#[test]
fn a_payload_longer_than_the_device_memory_set_aside_goes_in_parts() {
    let cluster = Cluster::default();
    let world = world(&cluster, 2, &patient());
    let words = || (0..9_u64 << 20).map(|i| i.wrapping_mul(0x9E37_79B9));
    world[1]
        .send(RankId(0), TAG, Payload::vec(words().collect::<Vec<_>>()), far())
        .unwrap();
    let frame = world[0].recv(RankId(1), TAG, far()).unwrap();
    assert!(frame.as_slice::<u64>().unwrap().iter().copied().eq(words()));
    assert_eq!(cluster.transfers(), 9);
}

/// The transfer's own bound is an hour away: what frees both ends is the abort.
#[test]
fn an_abort_frees_both_ends_of_a_transfer_that_hangs() {
    let cluster = Cluster::default();
    let world = world(&cluster, 2, &patient());
    stuck_transfer(&cluster, &world);
    world[0].abort("new plan");
    let error = world[0].recv(RankId(1), TAG, far()).unwrap_err();
    assert!(
        matches!(&error, TransportError::Aborted { reason } if reason == "new plan"),
        "{error}"
    );
    let error = world[1].recv(RankId(0), TAG, far()).unwrap_err();
    assert!(
        matches!(&error, TransportError::PeerAborted { reason, .. } if reason == "new plan"),
        "{error}"
    );
    until(|| cluster.calls("abort") >= 2);
    drop(world);
    cluster.check();
}

#[test]
fn a_transfer_that_hangs_ends_at_its_bound_and_blames_nobody() {
    let cluster = Cluster::default();
    let options = NcclOptions {
        transfer: Duration::from_millis(200),
        ..patient()
    };
    let world = world(&cluster, 2, &options);
    stuck_transfer(&cluster, &world);
    let errors = [
        world[0].recv(RankId(1), TAG, far()).unwrap_err(),
        world[1].recv(RankId(0), TAG, far()).unwrap_err(),
    ];
    // Who meets its bound first tells the other.
    let hung = errors
        .iter()
        .filter(|e| matches!(e, TransportError::Nccl { .. }))
        .count();
    assert!(hung >= 1, "{errors:?}");
    assert!(
        errors.iter().any(|e| e.to_string().contains("wasn't over")),
        "{errors:?}"
    );
    drop(world);
    cluster.check();
}

/// The peer's process is gone; NCCL says so, or says nothing, and then the connection's end does.
#[test]
fn a_dead_peer_is_named_whether_nccl_tells_of_it_or_not() {
    for told in [true, false] {
        let cluster = Cluster::default();
        let mut world = world(&cluster, 2, &patient());
        stuck_transfer(&cluster, &world);
        cluster.die(1, told);
        if !told {
            // Its sockets end with it.
            world.pop().unwrap().abort("dead");
        }
        let error = world[0].recv(RankId(1), TAG, far()).unwrap_err();
        assert_eq!(error.lost_peer(), Some(RankId(1)), "{error}");
        drop(world);
        cluster.check();
    }
}

#[test]
fn every_code_that_is_no_success_ends_the_link_also_unknown_ones() {
    for code in [1, 2, 3, 4, 5, 8, 9, -7, 12_345] {
        for call in ["send", "state"] {
            let cluster = Cluster::default();
            let world = world(&cluster, 2, &patient());
            cluster.plant(0, call, Code(code));
            world[0].send(RankId(1), TAG, long(), far()).unwrap();
            let error = world[0].recv(RankId(1), TAG, far()).unwrap_err();
            let named = format!("ncclSend gave {code} (simulated)");
            assert!(
                matches!(&error, TransportError::Nccl { rank: RankId(1), detail } if *detail == named),
                "{call} {code}: {error}"
            );
            let error = world[1].recv(RankId(0), TAG, far()).unwrap_err();
            assert_eq!(error.lost_peer(), Some(RankId(0)), "{error}");
            drop(world);
            cluster.check();
        }
    }
}

#[test]
fn a_fault_of_one_link_leaves_the_others_alone() {
    let cluster = Cluster::default();
    let world = world(&cluster, 3, &patient());
    cluster.plant(0, "send", Code::INTERNAL);
    world[0].send(RankId(1), TAG, long(), far()).unwrap();
    assert!(world[0].recv(RankId(1), TAG, far()).is_err());
    for (from, to) in [(0, 2), (2, 1), (1, 2)] {
        world[from].send(RankId(to), TAG, long(), far()).unwrap();
        let from = RankId(u32::try_from(from).unwrap());
        assert_eq!(world[to as usize].recv(from, TAG, far()).unwrap().len(), LONG);
    }
    drop(world);
    cluster.check();
}

/// Even where NCCL doesn't come back from an abort, closing does.
#[test]
fn an_abort_that_hangs_holds_nobody_up_for_good() {
    let cluster = Cluster::default();
    let options = NcclOptions {
        abort: Duration::from_millis(100),
        ..patient()
    };
    let world = world(&cluster, 2, &options);
    stuck_transfer(&cluster, &world);
    cluster.hang_aborts(0);
    let began = Instant::now();
    world[0].abort("new plan");
    drop(world);
    // The aborts' own bound, several times over, is far below what else it could have waited for.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    cluster.check_calls();
    cluster.release();
}

fn without_nccl() -> NcclEndpoint {
    let tcp = TcpEndpoint::bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    NcclEndpoint::new(tcp, None, patient())
}

fn over_tcp(world: &[NcclTransport]) {
    assert!(world.iter().all(|t| t.through_nccl().count() == 0));
    world[1].send(RankId(0), TAG, long(), far()).unwrap();
    assert_eq!(world[0].recv(RankId(1), TAG, far()).unwrap().len(), LONG);
}

#[test]
fn where_one_end_has_no_nccl_or_another_one_the_link_uses_tcp() {
    for lower_has_it in [true, false] {
        let cluster = Cluster::default();
        let mut ends = vec![endpoint(&cluster, &patient()), without_nccl()];
        if !lower_has_it {
            ends.reverse();
        }
        over_tcp(&joined(&ends));
        cluster.check();
    }
    let cluster = Cluster::default();
    let tcp = || TcpEndpoint::bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let ends = [VERSION, VERSION - 1]
        .map(|version| NcclEndpoint::new(tcp(), Some(cluster.process_with(version)), patient()));
    over_tcp(&joined(&ends));
    cluster.check();
}

#[test]
fn where_one_end_fails_to_meet_both_use_tcp() {
    for (process, call, code) in [
        (0, "init", Code::SYSTEM),
        (1, "init", Code::CUDA),
        (1, "state", Code(99)),
        (1, "unique_id", Code::SYSTEM),
    ] {
        let cluster = Cluster::default();
        let options = NcclOptions {
            meet: Duration::from_millis(300),
            ..patient()
        };
        let ends = [endpoint(&cluster, &options), endpoint(&cluster, &options)];
        cluster.plant(process, call, code);
        over_tcp(&joined(&ends));
        drop(ends);
        cluster.check();
    }
}

#[test]
fn where_nccl_is_required_its_absence_is_an_error_that_names_the_peer() {
    let cluster = Cluster::default();
    let required = NcclOptions {
        required: true,
        ..patient()
    };
    let ends = [endpoint(&cluster, &required), without_nccl()];
    let mut results = connect(
        &[member(0, 2), member(1, 2)],
        &[&ends[0], &ends[1]],
        &Options::default(),
        far(),
    );
    assert!(results.pop().unwrap().is_ok());
    let Err(error) = results.pop().unwrap() else {
        panic!("connected without NCCL")
    };
    assert!(
        matches!(&error, TransportError::Nccl { rank: RankId(1), detail } if detail.contains("no NCCL")),
        "{error}"
    );
}
