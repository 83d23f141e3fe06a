//! Going over to another epoch with the connections there are: only links whose ends changed are made.
//!
//! ```text
//!   connections of ranks that stay  --turn--> our fence is written, the peer's awaited     in time: kept
//!   theirs that end or stay silent, and all others  --sever-->                             dialled and accepted, as at the start
//! ```
//!
//! In: the transport of the epoch before, the next plan's identity, addresses and links, and which peers are the same
//! processes. Out: a transport of the next epoch. The one before is aborted and has no connections any more; nothing
//! of it is delivered in the next (TR-5).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rekindle_types::RankId;

use super::carrier::{Connection, Connections};
use super::endpoint::check_links;
use super::establish::{Stand, Wanted, establish};
use super::{TcpEndpoint, TcpTransport};
use crate::hub::{Hub, Linked};
use crate::{Deadline, Identity, Options, Transport, TransportError};

/// What the next epoch is.
pub struct Edit<'a> {
    /// This member: the same job and rank, a newer epoch.
    pub me: Identity,
    /// Where each rank listens.
    pub peers: &'a BTreeMap<RankId, SocketAddr>,
    /// Whom this rank has to do with.
    pub links: &'a BTreeSet<RankId>,
    /// Peers that are the processes they were in the epoch before. Of others the connections are of no use.
    pub stay: &'a BTreeSet<RankId>,
    /// Bounds. Those of sockets stay as they were where connections are kept.
    pub options: &'a Options,
}

impl Edit<'_> {
    fn check(&self, before: &Identity) -> Result<(), TransportError> {
        self.options.validate()?;
        check_links(&self.me, self.links)?;
        let same = before.job == self.me.job && before.rank == self.me.rank;
        match same && before.epoch < self.me.epoch {
            true => Ok(()),
            false => Err(TransportError::Options {
                option: "edit",
                why: format!("{before} can't become {}", self.me),
            }),
        }
    }
}

impl TcpEndpoint {
    /// Goes over to another epoch. Returns once all links of this rank stand, with the peers whose connections were
    /// kept. A peer that isn't there yet is awaited; one whose connection ends or that isn't heard within
    /// [`Options::handshake`] is connected anew.
    ///
    /// # Errors
    /// As [`TcpEndpoint::connect`]; `before` is aborted in any case but that of `Options`.
    pub fn edit(
        &self,
        before: &TcpTransport,
        edit: &Edit<'_>,
        deadline: Deadline,
    ) -> Result<(TcpTransport, BTreeSet<RankId>), TransportError> {
        edit.check(before.identity())?;
        let dial = edit.me.dials(edit.peers, edit.links)?;
        before.abort(&format!("goes over to {}", edit.me.epoch));
        let mut hub = Hub::new(edit.me.clone(), edit.links, edit.options);
        let stays = |connection: &Connection| {
            let peer = connection.peer();
            let wanted = edit.links.contains(&peer) && edit.stay.contains(&peer);
            wanted && !connection.serving().is_over()
        };
        let (turning, left): (Vec<_>, Vec<_>) = before.carrier().take().into_iter().partition(stays);
        left.into_iter().for_each(Connection::sever);
        for connection in &turning {
            connection.turn(hub.link(connection.peer())?);
        }
        let stay: BTreeSet<RankId> = turning.iter().map(Connection::peer).collect();
        let wanted = Wanted {
            me: &edit.me,
            dial: &dial,
            accept: &edit.me.accepts(edit.links),
            turning: turning.into_iter().map(|one| (one.peer(), one)).collect(),
        };
        let Stand { kept, made } = establish(self.listener(), wanted, edit.options, deadline)?;
        let (carrier, stayed) = (Connections::default(), kept.keys().copied().collect());
        kept.into_values().for_each(|connection| carrier.add(connection));
        for (rank, stream) in made {
            if stay.contains(&rank) {
                hub.renew(rank);
            }
            carrier.start(hub.link(rank)?, stream)?;
        }
        Ok((Linked::new(hub, carrier), stayed))
    }
}
