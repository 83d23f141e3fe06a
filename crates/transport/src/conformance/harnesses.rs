//! Harnesses of this crate's own transports.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use rekindle_types::{Epoch, RankId};

use super::{Boxed, EditHarness, Forger, Harness, Mesh, far, member};
use crate::memory::Injector;
use crate::tcp::{Edit, GREETING_BYTES, Greeting, PROTOCOL_VERSION};
use crate::wire::HEADER_BYTES;
use crate::{
    Deadline, Identity, MemoryMesh, MemoryTransport, Options, TcpEndpoint, TcpTransport, Transport,
    TransportError,
};

/// [`crate::MemoryTransport`].
pub struct Memory;

/// [`crate::TcpTransport`] over 127.0.0.1.
pub struct Tcp;

impl Harness for Memory {
    fn connect(
        &self,
        members: &[Identity],
        options: &Options,
        _deadline: Deadline,
    ) -> Vec<Result<Boxed, TransportError>> {
        if let Ok(world) = MemoryMesh::connect_members(members.to_vec(), options) {
            return world.into_iter().map(|t| Ok(Box::new(t) as Boxed)).collect();
        }
        // Each member's own view of the refusal: the last one of the list speaks.
        let refusal = |i: usize| {
            let mut turned = members.to_vec();
            turned.rotate_left((i + 1) % members.len());
            MemoryMesh::connect_members(turned, options).map(|mut world| Box::new(world.remove(0)) as Boxed)
        };
        (0..members.len()).map(refusal).collect()
    }

    fn forge(&self, options: &Options) -> (Boxed, Box<dyn Forger>) {
        let mut world = MemoryMesh::connect_members(vec![member(0, 2), member(1, 2)], options).unwrap();
        let (real, peer) = (world.pop().unwrap(), world.pop().unwrap());
        let injector = real.injector(RankId(0)).unwrap();
        (Box::new(real), Box::new((injector, peer)))
    }
}

impl EditHarness for Memory {
    fn mesh(&self, world: u32, options: &Options) -> Box<dyn Mesh> {
        let members: Vec<_> = (0..world).map(|rank| member(rank, world)).collect();
        let members = MemoryMesh::connect_members(members, options).unwrap();
        let options = options.clone();
        Box::new(InMemory {
            members,
            hidden: None,
            line: Line::default(),
            options,
        })
    }

    fn forge_mesh(&self, options: &Options) -> (Box<dyn Mesh>, Box<dyn Forger>) {
        let mut members = MemoryMesh::connect_members(vec![member(0, 2), member(1, 2)], options).unwrap();
        let real = members.pop().unwrap();
        let line = Line::default();
        *line.lock().unwrap() = Some(real.injector(RankId(0)).unwrap());
        let mesh = InMemory {
            members: vec![real],
            hidden: members.pop(),
            line: Arc::clone(&line),
            options: options.clone(),
        };
        (Box::new(mesh), Box::new(line))
    }
}

impl Forger for (Injector, MemoryTransport) {
    fn send(&mut self, header: &[u8; HEADER_BYTES], payload: &[u8]) {
        self.0.inject(header, payload);
    }
}

/// The line to a real rank that may go over to another epoch meanwhile.
type Line = Arc<Mutex<Option<Injector>>>;

impl Forger for Line {
    fn send(&mut self, header: &[u8; HEADER_BYTES], payload: &[u8]) {
        self.lock().unwrap().as_mut().unwrap().inject(header, payload);
    }
}

/// Queues of one process: the next epoch gets new ones, and those before are aborted.
struct InMemory {
    members: Vec<MemoryTransport>,
    /// The other end of a forger's line.
    hidden: Option<MemoryTransport>,
    line: Line,
    options: Options,
}

impl Mesh for InMemory {
    fn members(&self) -> Vec<&dyn Transport> {
        self.members
            .iter()
            .map(|member| member as &dyn Transport)
            .collect()
    }

    fn edit(&mut self, epoch: Epoch, replaced: &[RankId]) -> Vec<Result<BTreeSet<RankId>, TransportError>> {
        let all = self.hidden.iter().chain(&self.members);
        let next = |before: &MemoryTransport| {
            before.abort("goes over");
            let me = before.identity().clone();
            Identity { epoch, ..me }
        };
        let next: Vec<Identity> = all.map(next).collect();
        let mut members = MemoryMesh::connect_members(next, &self.options).unwrap();
        if self.hidden.is_some() {
            let real = members.pop().unwrap();
            *self.line.lock().unwrap() = Some(real.injector(RankId(0)).unwrap());
            (self.hidden, self.members) = (members.pop(), vec![real]);
        } else {
            self.members = members;
        }
        let kept = |member: &MemoryTransport| stayed(member.identity(), replaced);
        self.members.iter().map(|member| Ok(kept(member))).collect()
    }
}

/// The peers whose links a member keeps, of a world that is linked everybody to everybody.
pub(super) fn stayed(me: &Identity, replaced: &[RankId]) -> BTreeSet<RankId> {
    let stays = |rank: &RankId| *rank != me.rank && !replaced.contains(rank);
    let all = (0..me.world).map(RankId).filter(stays);
    all.filter(|_| !replaced.contains(&me.rank)).collect()
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

impl Harness for Tcp {
    fn connect(
        &self,
        members: &[Identity],
        options: &Options,
        deadline: Deadline,
    ) -> Vec<Result<Boxed, TransportError>> {
        let endpoints: Vec<_> = members
            .iter()
            .map(|_| TcpEndpoint::bind(loopback()).unwrap())
            .collect();
        let peers: BTreeMap<RankId, SocketAddr> = members
            .iter()
            .zip(&endpoints)
            .map(|(m, e)| (m.rank, e.local_addr()))
            .collect();
        let connect = |me: &Identity, endpoint: &TcpEndpoint| {
            let links: BTreeSet<RankId> = peers.keys().copied().filter(|&r| r != me.rank).collect();
            let transport = endpoint.connect(me.clone(), &peers, &links, options, deadline)?;
            Ok(Box::new(transport) as Boxed)
        };
        std::thread::scope(|scope| {
            let connect = &connect;
            let threads: Vec<_> = members
                .iter()
                .zip(&endpoints)
                .map(|(m, e)| scope.spawn(move || connect(m, e)))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    fn forge(&self, options: &Options) -> (Boxed, Box<dyn Forger>) {
        let (_, transport, stream) = forged(options);
        (Box::new(transport), Box::new(stream))
    }
}

impl EditHarness for Tcp {
    fn mesh(&self, world: u32, options: &Options) -> Box<dyn Mesh> {
        let ranks = (0..world).map(RankId);
        let mut sockets = Sockets {
            endpoints: ranks
                .map(|rank| (rank, TcpEndpoint::bind(loopback()).unwrap()))
                .collect(),
            members: BTreeMap::new(),
            options: options.clone(),
        };
        sockets.connect_all(world);
        Box::new(sockets)
    }

    fn forge_mesh(&self, options: &Options) -> (Box<dyn Mesh>, Box<dyn Forger>) {
        let (endpoint, transport, stream) = forged(options);
        let sockets = Sockets {
            endpoints: BTreeMap::from([(RankId(1), endpoint)]),
            members: BTreeMap::from([(RankId(1), transport)]),
            options: options.clone(),
        };
        (Box::new(sockets), Box::new(stream))
    }
}

/// A real rank 1 of two, and the other end of its connection.
fn forged(options: &Options) -> (TcpEndpoint, TcpTransport, TcpStream) {
    let endpoint = TcpEndpoint::bind(loopback()).unwrap();
    let mut stream = TcpStream::connect(endpoint.local_addr()).unwrap();
    let hello = Greeting {
        version: PROTOCOL_VERSION,
        refusal: None,
        from: member(0, 2),
        to: RankId(1),
    };
    stream.write_all(&hello.encode()).unwrap();
    let links = BTreeSet::from([RankId(0)]);
    let transport = endpoint
        .connect(member(1, 2), &BTreeMap::new(), &links, options, far())
        .unwrap();
    let mut reply = [0; GREETING_BYTES];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(Greeting::decode(&reply).unwrap().refusal, None);
    (endpoint, transport, stream)
}

/// Members with their endpoints, linked everybody to everybody.
struct Sockets {
    endpoints: BTreeMap<RankId, TcpEndpoint>,
    members: BTreeMap<RankId, TcpTransport>,
    options: Options,
}

impl Sockets {
    fn addresses(&self) -> BTreeMap<RankId, SocketAddr> {
        let address = |(rank, endpoint): (&RankId, &TcpEndpoint)| (*rank, endpoint.local_addr());
        self.endpoints.iter().map(address).collect()
    }

    fn connect_all(&mut self, world: u32) {
        let (peers, options) = (self.addresses(), &self.options);
        let connect = |(rank, endpoint): (&RankId, &TcpEndpoint)| {
            let links = peers.keys().copied().filter(|peer| peer != rank).collect();
            let me = member(rank.0, world);
            (
                *rank,
                endpoint.connect(me, &peers, &links, options, far()).unwrap(),
            )
        };
        self.members = std::thread::scope(|scope| {
            let connect = &connect;
            let threads: Vec<_> = self
                .endpoints
                .iter()
                .map(|one| scope.spawn(move || connect(one)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
    }
}

/// One member goes over to `epoch`, or, where it is `new`, begins there.
fn go_over(
    endpoint: &TcpEndpoint,
    before: &TcpTransport,
    (epoch, peers): (Epoch, &BTreeMap<RankId, SocketAddr>),
    replaced: &[RankId],
    options: &Options,
) -> Result<(TcpTransport, BTreeSet<RankId>), TransportError> {
    let me = Identity {
        epoch,
        ..before.identity().clone()
    };
    let links: BTreeSet<RankId> = before.peers().collect();
    if replaced.contains(&me.rank) {
        let transport = endpoint.connect(me, peers, &links, options, far())?;
        return Ok((transport, BTreeSet::new()));
    }
    let edit = Edit {
        me,
        peers,
        links: &links,
        stay: &links
            .iter()
            .copied()
            .filter(|rank| !replaced.contains(rank))
            .collect(),
        options,
    };
    endpoint.edit(before, &edit, far())
}

impl Mesh for Sockets {
    fn members(&self) -> Vec<&dyn Transport> {
        self.members
            .values()
            .map(|member| member as &dyn Transport)
            .collect()
    }

    fn edit(&mut self, epoch: Epoch, replaced: &[RankId]) -> Vec<Result<BTreeSet<RankId>, TransportError>> {
        for rank in replaced {
            self.endpoints
                .insert(*rank, TcpEndpoint::bind(loopback()).unwrap());
        }
        let (peers, options) = (self.addresses(), &self.options);
        let before = std::mem::take(&mut self.members);
        let one = |(rank, before): (RankId, TcpTransport)| {
            if replaced.contains(&rank) {
                before.abort("it is replaced");
            }
            let result = go_over(
                &self.endpoints[&rank],
                &before,
                (epoch, &peers),
                replaced,
                options,
            );
            (rank, result)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let one = &one;
            let threads: Vec<_> = before
                .into_iter()
                .map(|it| scope.spawn(move || one(it)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut kept = Vec::new();
        for (rank, result) in results {
            kept.push(result.map(|(transport, kept)| {
                self.members.insert(rank, transport);
                kept
            }));
        }
        kept
    }
}

impl Forger for TcpStream {
    fn send(&mut self, header: &[u8; HEADER_BYTES], payload: &[u8]) {
        // The far end may have hung up already; what it says about that is what the checks look at.
        drop(self.write_all(header).and_then(|()| self.write_all(payload)));
    }
}
