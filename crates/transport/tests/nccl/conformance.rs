//! Every check that any transport must pass, with all payloads through NCCL but empty ones, and with long ones only.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use rekindle_transport::conformance::{ALL, Boxed, EPOCH, Forger, Harness, member};
use rekindle_transport::nccl::{NcclEndpoint, NcclOptions, NcclTransport};
use rekindle_transport::tcp::{GREETING_BYTES, Greeting, PROTOCOL_VERSION};
use rekindle_transport::wire::{FrameType, HEADER_BYTES, Header};
use rekindle_transport::{Deadline, Identity, Options, Tag, TagKind, TcpEndpoint, TransportError};
use rekindle_types::RankId;

use super::simulated::Cluster;

/// Connects by `least` bytes and more through NCCL.
pub struct Simulated {
    least: usize,
    /// Those that were connected.
    clusters: Mutex<Vec<Cluster>>,
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

pub fn endpoint(cluster: &Cluster, options: &NcclOptions) -> NcclEndpoint {
    NcclEndpoint::new(
        TcpEndpoint::bind(loopback()).unwrap(),
        Some(cluster.process()),
        options.clone(),
    )
}

/// Connects members with each other through their endpoints.
pub fn connect(
    members: &[Identity],
    endpoints: &[&NcclEndpoint],
    options: &Options,
    deadline: Deadline,
) -> Vec<Result<NcclTransport, TransportError>> {
    let peers: BTreeMap<RankId, SocketAddr> = members
        .iter()
        .zip(endpoints)
        .map(|(m, e)| (m.rank, e.local_addr()))
        .collect();
    let connect = |me: &Identity, endpoint: &NcclEndpoint| {
        let links: BTreeSet<RankId> = peers.keys().copied().filter(|&r| r != me.rank).collect();
        endpoint.connect(me.clone(), &peers, &links, options, deadline)
    };
    std::thread::scope(|scope| {
        let connect = &connect;
        let threads: Vec<_> = members
            .iter()
            .zip(endpoints)
            .map(|(m, e)| scope.spawn(move || connect(m, e)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

impl Harness for Simulated {
    fn connect(
        &self,
        members: &[Identity],
        options: &Options,
        deadline: Deadline,
    ) -> Vec<Result<Boxed, TransportError>> {
        let cluster = Cluster::default();
        let nccl = NcclOptions {
            least_bytes: self.least,
            required: true,
            ..NcclOptions::default()
        };
        let endpoints: Vec<_> = members.iter().map(|_| endpoint(&cluster, &nccl)).collect();
        let world = connect(members, &endpoints.iter().collect::<Vec<_>>(), options, deadline);
        self.clusters.lock().unwrap().push(cluster);
        let boxed = |t| Box::new(t) as Boxed;
        world.into_iter().map(|t| t.map(boxed)).collect()
    }

    fn forge(&self, options: &Options) -> (Boxed, Box<dyn Forger>) {
        let endpoint = endpoint(&Cluster::default(), &NcclOptions::default());
        let mut stream = TcpStream::connect(endpoint.local_addr()).unwrap();
        let hello = Greeting {
            version: PROTOCOL_VERSION,
            refusal: None,
            from: member(0, 2),
            to: RankId(1),
        };
        stream.write_all(&hello.encode()).unwrap();
        // Without NCCL: version 0, holds nothing.
        let offer = [0_u8; 29];
        let header = Header {
            frame: FrameType::Data(Tag::new(TagKind::Pair, 0, 0)),
            job_hash: member(0, 2).job_hash(),
            epoch: EPOCH,
            from: 0,
            to: 1,
            payload_bytes: offer.len() as u64,
            payload_checksum: None,
        };
        stream
            .write_all(&[&header.encode()[..], &offer].concat())
            .unwrap();
        let links = BTreeSet::from([RankId(0)]);
        let big = Options {
            max_frame_bytes: options.max_frame_bytes.max(1000),
            ..options.clone()
        };
        let deadline = Deadline::after(Duration::from_secs(60));
        let transport = endpoint
            .connect(member(1, 2), &BTreeMap::new(), &links, &big, deadline)
            .unwrap();
        let mut reply = [0; GREETING_BYTES + HEADER_BYTES];
        stream.read_exact(&mut reply).unwrap();
        (Box::new(transport), Box::new(Line(stream)))
    }
}

struct Line(TcpStream);

impl Forger for Line {
    fn send(&mut self, header: &[u8; HEADER_BYTES], payload: &[u8]) {
        // The far end may have hung up already; what it says about that is what the checks look at.
        drop(self.0.write_all(header).and_then(|()| self.0.write_all(payload)));
    }
}

/// A check, and afterwards that no call was made that may deadlock and nothing was left behind.
fn run(least: usize, name: &str) {
    let (_, check) = ALL.iter().find(|(n, _)| *n == name).expect("a check of the list");
    let harness = Simulated {
        least,
        clusters: Mutex::default(),
    };
    check(&harness);
    harness.clusters.lock().unwrap().iter().for_each(Cluster::check);
}

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod everything {
            $(#[test] fn $name() { super::run(1, stringify!($name)); })*
        }
        mod long_payloads {
            $(#[test] fn $name() { super::run(10_000, stringify!($name)); })*
        }
        #[test]
        fn the_list_is_complete() {
            let listed = [$(stringify!($name)),*];
            assert!(ALL.iter().map(|(name, _)| *name).eq(listed));
        }
    };
}

conformance!(
    order_per_tag,
    any_tag_order,
    big_frames_both_ways,
    many_small_frames,
    payload_kinds,
    sizes_are_checked,
    slow_receiver_slows_the_sender,
    frame_count_is_bounded,
    waiting_receiver_reads_past_the_soft_bound,
    stuck_receiver_is_told,
    many_threads_one_peer,
    crossing_sends_complete,
    waiting_for_each_other_through_a_third,
    deadlines_name_peer_and_tag,
    a_wait_shows_whom_it_is_for,
    abort_frees_everybody,
    close_delivers_what_was_sent,
    close_ends_waits_for_this_rank_only,
    misuse_is_named,
    foreign_members_are_refused,
    older_frames_are_dropped_and_counted,
    foreign_frames_end_the_connection,
    malformed_frames_end_the_connection,
    reduce_scatter_equals_reference,
    all_gather_equals_reference,
    all_reduce_equals_reference,
    broadcast_and_barrier,
    phases_overlap,
    integer_overflow_reaches_everybody,
);
