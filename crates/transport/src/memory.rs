//! The transport inside one process: the reference the TCP one is compared with, and what tests and
//! single-process runs use.
//!
//! ```text
//!  outbox of a towards b -> pump thread (a to b) -> inbox of b
//! ```
//!
//! In: identities that must belong together. Out: one [`MemoryTransport`] per member, everybody linked to
//! everybody. Owned buffers move to the receiver; shared payloads are copied once. The same bounds, gate and
//! errors as TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rekindle_types::{Epoch, JobId, RankId};

use crate::error::End;
use crate::gate::Verdict;
use crate::hub::{Carrier, Hub, Link, Linked};
use crate::inbox::Room;
use crate::outbox::{Next, Outgoing};
use crate::stats::add;
use crate::wire::{FrameType, HEADER_BYTES, Header};
use crate::{Deadline, Frame, Identity, Options, Payload, RefusalReason, TransportError};

/// A rank's transport in memory.
pub type MemoryTransport = Linked<Pumps>;

/// Makes worlds of connected in-memory transports.
pub struct MemoryMesh;

impl MemoryMesh {
    /// `world` ranks of one job and epoch, all linked, in rank order.
    ///
    /// # Errors
    /// `Options`, or `Io` when no thread can be started.
    pub fn connect(
        job: &JobId,
        epoch: Epoch,
        world: u32,
        options: &Options,
    ) -> Result<Vec<MemoryTransport>, TransportError> {
        let member = |rank| Identity {
            job: job.clone(),
            epoch,
            rank: RankId(rank),
            world,
        };
        Self::connect_members((0..world).map(member).collect(), options)
    }

    /// The given members, all linked, in the given order.
    ///
    /// # Errors
    /// `Refused` when two of them don't belong together, `Options`, `Io`.
    pub fn connect_members(
        members: Vec<Identity>,
        options: &Options,
    ) -> Result<Vec<MemoryTransport>, TransportError> {
        options.validate()?;
        for (i, ours) in members.iter().enumerate() {
            for theirs in &members[..i] {
                check_pair(ours, theirs)?;
            }
        }
        let ranks: BTreeSet<RankId> = members.iter().map(|m| m.rank).collect();
        let hub = |me: Identity| {
            let peers = ranks.iter().copied().filter(|&r| r != me.rank).collect();
            Hub::new(me, &peers, options)
        };
        let hubs: Vec<Hub> = members.into_iter().map(hub).collect();
        let mut pumps: Vec<Vec<Pump>> = hubs.iter().map(start_pumps_of(&hubs)).collect::<Result<_, _>>()?;
        Ok(hubs
            .into_iter()
            .zip(pumps.drain(..))
            .map(|(hub, pumps)| Linked::new(hub, Pumps { pumps }))
            .collect())
    }
}

fn check_pair(ours: &Identity, theirs: &Identity) -> Result<(), TransportError> {
    let reason = if ours.job != theirs.job {
        RefusalReason::Job
    } else if ours.epoch != theirs.epoch {
        RefusalReason::Epoch
    } else if ours.world != theirs.world {
        RefusalReason::World
    } else if ours.rank == theirs.rank {
        RefusalReason::Rank
    } else {
        return Ok(());
    };
    Err(TransportError::Refused {
        reason,
        ours: Box::new(ours.clone()),
        theirs: theirs.to_string(),
    })
}

/// The pump threads that carry one rank's frames out.
pub struct Pumps {
    pumps: Vec<Pump>,
}

struct Pump {
    out: Arc<Link>,
    into: Arc<Link>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn start_pumps_of(hubs: &[Hub]) -> impl Fn(&Hub) -> Result<Vec<Pump>, TransportError> + '_ {
    let ends: BTreeMap<RankId, &Hub> = hubs
        .iter()
        .filter_map(|hub| hub.links().next().map(|link| (link.gate.me.rank, hub)))
        .collect();
    move |hub| {
        let start = |out: &Arc<Link>| {
            let me = out.gate.me.rank;
            let far = ends
                .get(&out.peer())
                .ok_or(TransportError::NotLinked { rank: out.peer() })?;
            start_pump(Arc::clone(out), Arc::clone(far.link(me)?))
        };
        hub.links().map(start).collect()
    }
}

fn start_pump(out: Arc<Link>, into: Arc<Link>) -> Result<Pump, TransportError> {
    let (near, far) = (Arc::clone(&out), Arc::clone(&into));
    let thread = std::thread::Builder::new()
        .name(format!("pump-{}-{}", out.gate.me.rank.0, out.peer().0))
        .spawn(move || pump(&near, &far))
        .map_err(|source| TransportError::Io {
            what: "start a pump thread".to_owned(),
            source,
        })?;
    Ok(Pump {
        out,
        into,
        thread: Mutex::new(Some(thread)),
    })
}

fn pump(out: &Link, into: &Link) {
    loop {
        match out.outbox.take(1, usize::MAX) {
            Next::Write(batch) => {
                for Outgoing { tag, payload, .. } in batch {
                    let bytes = payload.len();
                    let header = out.gate.header(FrameType::Data(tag), bytes);
                    if !arrive(into, &header, payload) {
                        out.end(&End::Reset("the peer ended the connection".to_owned()));
                    }
                    add(&out.counters.bytes_sent, bytes);
                    add(&out.counters.frames_sent, 1);
                    out.outbox.written_bytes(1, bytes);
                }
            }
            Next::Goodbye => {
                into.end(&End::Closed);
                return;
            }
            Next::Stop => return,
            // Nothing goes apart here.
            Next::Ready => out.outbox.told_ready(),
        }
    }
}

/// What a reader does with a frame: gate, room, delivery. `into` is the receiver's end of the link.
/// False when the frame ends the connection.
fn arrive(into: &Link, header: &Header, payload: Payload) -> bool {
    let from = into.peer();
    match (into.gate.check(header), header.frame) {
        (Ok(Verdict::Accept), FrameType::Data(tag)) => {
            if into.inbox.reserve(from, payload.len()) == Room::Reserved {
                let buffer = payload
                    .into_owned()
                    .unwrap_or_else(|shared| into.pool.copy_of(shared.bytes()));
                into.inbox.deliver(Frame::new(from, tag, buffer));
            }
        }
        (Ok(Verdict::Accept), FrameType::Apart(_) | FrameType::Ready) => {
            let why = "a payload apart, which wasn't agreed on";
            into.end(&End::Protocol(crate::ProtocolError::Malformed { why }));
            return false;
        }
        // Whoever goes over to another epoch in memory gets new queues.
        (Ok(Verdict::Accept | Verdict::Fence), _) => {}
        (Ok(Verdict::DropOld), _) => add(&into.counters.frames_dropped_old, 1),
        (Err(error), _) => {
            into.end(&End::Protocol(error));
            return false;
        }
    }
    true
}

impl MemoryTransport {
    /// A way to put any bytes on the line from `peer`, for conformance tests.
    pub(crate) fn injector(&self, peer: RankId) -> Result<Injector, TransportError> {
        self.link(peer).map(|into| Injector { into, ended: false })
    }
}

/// Plays a peer that doesn't keep to the protocol.
pub(crate) struct Injector {
    into: Arc<Link>,
    ended: bool,
}

impl Injector {
    /// What the reader of a connection does with these bytes.
    pub(crate) fn inject(&mut self, header: &[u8; HEADER_BYTES], payload: &[u8]) {
        if self.ended {
            return;
        }
        match Header::decode(header) {
            Ok(header) => self.ended = !arrive(&self.into, &header, self.into.pool.copy_of(payload).into()),
            Err(error) => {
                self.into.end(&End::Protocol(error));
                self.ended = true;
            }
        }
    }
}

impl Carrier for Pumps {
    fn abort(&self, reason: &str) {
        for pump in &self.pumps {
            pump.out.outbox.end(End::Aborted(reason.to_owned()));
            pump.into.end(&End::PeerAborted(reason.to_owned()));
        }
    }

    fn close(&mut self, deadline: Deadline) {
        for pump in &self.pumps {
            while deadline.remaining().is_some() && !pump.is_finished() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            if !pump.is_finished() {
                pump.out.outbox.end(End::Closed);
                pump.into.inbox.end(
                    pump.into.peer(),
                    End::Reset("closed before its frames were taken".to_owned()),
                );
            }
            if let Some(thread) = pump.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
                drop(thread.join());
            }
        }
    }
}

impl Pump {
    fn is_finished(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}
