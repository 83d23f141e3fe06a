//! How long a mesh takes to go over to another epoch after one of its ranks was replaced: all connections anew,
//! against an edit.
//!
//! `cargo bench -p rekindle-transport --bench edit [-- ROUNDS]`. Ranks are threads of this process, linked everybody
//! to everybody over 127.0.0.1; rank 3 is a new endpoint in every round, as a new process would be. From when the
//! ranks are told until each has heard every other one in the new epoch; the two ways by turns, medians and the
//! spread over rounds. "Rebuild" ends the transports there are without goodbyes, as the end of a process does, and
//! keeps the endpoints; starting processes isn't in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rekindle_transport::collective::{Group, barrier};
use rekindle_transport::tcp::Edit;
use rekindle_transport::{Deadline, Identity, Options, Tag, TagKind, TcpEndpoint, TcpTransport};
use rekindle_types::{Epoch, JobId, RankId};

const REPLACED: RankId = RankId(3);

fn far() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn bind() -> TcpEndpoint {
    TcpEndpoint::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port")
}

/// All ranks and where they are.
struct Mesh {
    world: u32,
    epoch: Epoch,
    endpoints: Vec<TcpEndpoint>,
    members: Vec<Option<TcpTransport>>,
}

/// What all ranks know of an epoch.
struct Plan {
    epoch: Epoch,
    world: u32,
    peers: BTreeMap<RankId, SocketAddr>,
}

impl Plan {
    fn me(&self, rank: RankId) -> Identity {
        Identity {
            job: JobId::new("bench").expect("valid"),
            epoch: self.epoch,
            rank,
            world: self.world,
        }
    }

    fn links(&self, rank: RankId) -> BTreeSet<RankId> {
        self.peers.keys().copied().filter(|peer| *peer != rank).collect()
    }

    fn connect(&self, rank: RankId, endpoint: &TcpEndpoint) -> TcpTransport {
        let (me, links) = (self.me(rank), self.links(rank));
        let options = Options::default();
        endpoint
            .connect(me, &self.peers, &links, &options, far())
            .expect("connects")
    }

    fn edit(&self, rank: RankId, endpoint: &TcpEndpoint, before: &TcpTransport) -> TcpTransport {
        let (links, options) = (self.links(rank), Options::default());
        let edit = Edit {
            me: self.me(rank),
            peers: &self.peers,
            links: &links,
            stay: &links.iter().copied().filter(|peer| *peer != REPLACED).collect(),
            options: &options,
        };
        let (transport, kept) = endpoint.edit(before, &edit, far()).expect("goes over");
        assert_eq!(
            kept.len() + 2,
            self.world as usize,
            "all but this one and the replaced one"
        );
        transport
    }

    fn meet(&self, transport: &TcpTransport, rank: RankId) {
        let group = Group::new(self.peers.keys().copied().collect(), rank).expect("a group");
        let tag = Tag::new(TagKind::Barrier, 0, 0);
        barrier(transport, &group, tag, far()).expect("all are there");
    }
}

impl Mesh {
    fn new(world: u32) -> Self {
        let mut mesh = Self {
            world,
            epoch: Epoch(0),
            endpoints: (0..world).map(|_| bind()).collect(),
            members: (0..world).map(|_| None).collect(),
        };
        mesh.next(false);
        mesh
    }

    /// Seconds to the next epoch.
    fn next(&mut self, edit: bool) -> f64 {
        self.epoch = self.epoch.next();
        let lost = REPLACED.0 as usize;
        self.endpoints[lost] = bind();
        self.members[lost].take().into_iter().for_each(hang_up);
        let addresses = self.endpoints.iter().map(TcpEndpoint::local_addr);
        let plan = Plan {
            epoch: self.epoch,
            world: self.world,
            peers: (0..).map(RankId).zip(addresses).collect(),
        };
        let began = Instant::now();
        std::thread::scope(|scope| {
            let ranks = (0..).map(RankId).zip(&self.endpoints).zip(&mut self.members);
            for ((rank, endpoint), member) in ranks {
                let plan = &plan;
                scope.spawn(move || {
                    let next = match member.take() {
                        Some(before) if edit => plan.edit(rank, endpoint, &before),
                        before => {
                            before.into_iter().for_each(hang_up);
                            plan.connect(rank, endpoint)
                        }
                    };
                    plan.meet(&next, rank);
                    *member = Some(next);
                });
            }
        });
        began.elapsed().as_secs_f64()
    }
}

/// The end of a process: no goodbyes.
fn hang_up(transport: TcpTransport) {
    transport.close(Deadline::after(Duration::ZERO));
}

fn told(seconds: &mut [f64]) -> String {
    seconds.sort_by(f64::total_cmp);
    let at = |index: usize| seconds[index] * 1e3;
    format!(
        "{:.2} ({:.2} to {:.2})",
        at(seconds.len() / 2),
        at(0),
        at(seconds.len() - 1)
    )
}

fn main() {
    let rounds = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next();
    let rounds: usize = rounds.unwrap_or(30);
    println!("| ranks | rebuild, ms | edit, ms |\n|---|---|---|");
    for world in [4, 8, 16] {
        let mut mesh = Mesh::new(world);
        let (mut rebuilds, mut edits) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let (rebuild, edit) = (mesh.next(false), mesh.next(true));
            // The first round warms up.
            if round > 0 {
                rebuilds.push(rebuild);
                edits.push(edit);
            }
        }
        println!("| {world} | {} | {} |", told(&mut rebuilds), told(&mut edits));
    }
}
