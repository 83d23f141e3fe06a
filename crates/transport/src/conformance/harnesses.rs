//! Harnesses of this crate's own transports.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use rekindle_types::RankId;

use super::{Boxed, Forger, Harness, far, member};
use crate::memory::Injector;
use crate::tcp::{GREETING_BYTES, Greeting, PROTOCOL_VERSION};
use crate::wire::HEADER_BYTES;
use crate::{Deadline, Identity, MemoryMesh, Options, TcpEndpoint, TransportError};

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

impl Forger for (Injector, crate::MemoryTransport) {
    fn send(&mut self, header: &[u8; HEADER_BYTES], payload: &[u8]) {
        self.0.inject(header, payload);
    }
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
        (Box::new(transport), Box::new(stream))
    }
}

impl Forger for TcpStream {
    fn send(&mut self, header: &[u8; HEADER_BYTES], payload: &[u8]) {
        // The far end may have hung up already; what it says about that is what the checks look at.
        drop(self.write_all(header).and_then(|()| self.write_all(payload)));
    }
}
