//! The listening socket of a trainer, and making the connections of one epoch.
//!
//! In: an address to listen on; later the identity, the peers and the links of a plan. Out: a
//! [`TcpTransport`]. The endpoint outlives its transports: the next epoch connects through the same port, and may take
//! connections over (`edit`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rekindle_types::RankId;

use super::TcpTransport;
use super::carrier::Connections;
use super::establish::{Wanted, establish};
use crate::hub::{Hub, Linked};
use crate::{Deadline, Identity, Options, TransportError};

/// A bound listener. Bind first, tell everybody the address, then connect.
pub struct TcpEndpoint {
    listener: TcpListener,
    address: SocketAddr,
}

impl TcpEndpoint {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// `Io` naming the address.
    pub fn bind(address: SocketAddr) -> Result<Self, TransportError> {
        let io = |source| TransportError::Io {
            what: format!("listen on {address}"),
            source,
        };
        let listener = TcpListener::bind(address).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        let address = listener.local_addr().map_err(io)?;
        Ok(Self { listener, address })
    }

    pub(super) fn listener(&self) -> &TcpListener {
        &self.listener
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Connects to every rank of `links`: dials the higher ones at their address in `peers`, waits for the
    /// lower ones. Returns once all links of this rank stand. A peer that isn't there yet, or still at an
    /// older epoch, is tried again until the deadline.
    ///
    /// # Errors
    /// `Refused` at once when a peer belongs to something else (other job, newer epoch, other rank);
    /// `ConnectDeadline` naming who is missing and whom this rank refused; `Options`; `NotLinked` for a link
    /// without an address; `Io`.
    pub fn connect(
        &self,
        me: Identity,
        peers: &BTreeMap<RankId, SocketAddr>,
        links: &BTreeSet<RankId>,
        options: &Options,
        deadline: Deadline,
    ) -> Result<TcpTransport, TransportError> {
        options.validate()?;
        check_links(&me, links)?;
        let wanted = Wanted {
            me: &me,
            dial: &me.dials(peers, links)?,
            accept: &me.accepts(links),
            turning: BTreeMap::new(),
        };
        let streams = establish(&self.listener, wanted, options, deadline)?.made;
        let hub = Hub::new(me, links, options);
        let carrier = start(&hub, streams)?;
        Ok(Linked::new(hub, carrier))
    }
}

impl Identity {
    /// The linked ranks that this one dials, and where.
    pub(super) fn dials(
        &self,
        peers: &BTreeMap<RankId, SocketAddr>,
        links: &BTreeSet<RankId>,
    ) -> Result<BTreeMap<RankId, SocketAddr>, TransportError> {
        let higher = links.range(RankId(self.rank.0.saturating_add(1))..);
        let at = |&rank| {
            let address = peers.get(&rank).copied();
            address
                .map(|address| (rank, address))
                .ok_or(TransportError::NotLinked { rank })
        };
        higher.map(at).collect()
    }

    /// The linked ranks that dial this one.
    pub(super) fn accepts(&self, links: &BTreeSet<RankId>) -> BTreeSet<RankId> {
        links.range(..self.rank).copied().collect()
    }
}

pub(super) fn check_links(me: &Identity, links: &BTreeSet<RankId>) -> Result<(), TransportError> {
    let outside = links.iter().chain([&me.rank]).find(|rank| rank.0 >= me.world);
    if let Some(rank) = outside {
        let why = format!("{rank} is outside a world of {}", me.world);
        return Err(TransportError::Options { option: "links", why });
    }
    if links.contains(&me.rank) {
        return Err(TransportError::Options {
            option: "links",
            why: format!("{} is this rank itself", me.rank),
        });
    }
    Ok(())
}

fn start(hub: &Hub, mut streams: BTreeMap<RankId, TcpStream>) -> Result<Connections, TransportError> {
    let connections = Connections::default();
    for link in hub.links() {
        let stream = streams
            .remove(&link.peer())
            .ok_or(TransportError::NotLinked { rank: link.peer() })?;
        connections.start(link, stream)?;
    }
    Ok(connections)
}
