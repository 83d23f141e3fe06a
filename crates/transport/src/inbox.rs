//! Frames that have arrived and that nobody has asked for yet; one compartment per peer, under one lock.
//!
//! In: frames from the readers ([`Inbox::reserve`], then [`Inbox::deliver`]), callers asking for tags. Out:
//! frames, or why there is none.
//!
//! Invariants: TR-2, TR-3, TR-4 and TR-7 live here. A reader reserves before it allocates. `waiting` holds
//! what each thread of this rank waits for that is blocked in any call; while there is one the hard bound counts
//! instead of the soft one, for every peer: the thread may wait for a frame of one peer which that peer can only
//! send after another peer got rid of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rekindle_types::RankId;

use crate::error::End;
use crate::stats::{Counters, add, add_time, raise};
use crate::wire::HEADER_BYTES;
use crate::{Blocked, Deadline, Frame, Operation, Tag, TagKind, TransportError};

pub(crate) struct Inbox {
    state: Mutex<State>,
    peers: BTreeMap<RankId, Peer>,
    soft_bytes: usize,
    hard_bytes: usize,
}

struct Peer {
    arrived: Condvar,
    room: Condvar,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct State {
    compartments: BTreeMap<RankId, Compartment>,
    /// By the order in which they began: the first one has waited longest.
    waiting: Vec<(u64, Blocked)>,
    waits: u64,
    aborted: Option<String>,
    discarding: bool,
}

#[derive(Default)]
struct Compartment {
    frames: BTreeMap<Tag, VecDeque<Frame>>,
    held_bytes: usize,
    /// What the reader needs room for while it is stopped.
    stopped_for: Option<usize>,
    end: Option<End>,
}

/// Whether the reader shall keep what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Room is reserved: read, then deliver.
    Reserved,
    /// Nobody will ask any more: read and throw away.
    Discard,
}

/// A thread is known to be blocked for as long as this lives.
pub(crate) struct Waiting<'a> {
    inbox: &'a Inbox,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inbox
            .lock()
            .waiting
            .retain(|(number, _)| *number != self.number);
    }
}

fn cost(payload_bytes: usize) -> usize {
    payload_bytes.saturating_add(HEADER_BYTES)
}

impl Inbox {
    pub(crate) fn new(peers: &BTreeMap<RankId, Arc<Counters>>, soft_bytes: usize, hard_bytes: usize) -> Self {
        let compartments = peers.keys().map(|&rank| (rank, Compartment::default())).collect();
        let peers = peers
            .iter()
            .map(|(&rank, counters)| {
                let counters = Arc::clone(counters);
                (
                    rank,
                    Peer {
                        arrived: Condvar::new(),
                        room: Condvar::new(),
                        counters,
                    },
                )
            })
            .collect();
        Self {
            state: Mutex::new(State {
                compartments,
                ..State::default()
            }),
            peers,
            soft_bytes,
            hard_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peer(&self, rank: RankId) -> Result<&Peer, TransportError> {
        self.peers.get(&rank).ok_or(TransportError::NotLinked { rank })
    }

    /// Says that the calling thread is about to block (TR-4), and on what. Take no other lock's guard into this.
    pub(crate) fn waiting(&self, what: Blocked) -> Waiting<'_> {
        let mut state = self.lock();
        state.waits += 1;
        let number = state.waits;
        state.waiting.push((number, what));
        for (rank, peer) in &self.peers {
            if state
                .compartments
                .get(rank)
                .is_some_and(|c| c.stopped_for.is_some())
            {
                peer.room.notify_all();
            }
        }
        Waiting { inbox: self, number }
    }

    /// What the thread waits for that has been blocked longest.
    pub(crate) fn blocked(&self) -> Option<Blocked> {
        self.lock().waiting.first().map(|(_, what)| *what)
    }

    /// Called by the reader of `from` before it allocates; blocks while there is no room. Ended by `end`,
    /// `abort` and `discard`.
    pub(crate) fn reserve(&self, from: RankId, payload_bytes: usize) -> Room {
        let Some(peer) = self.peers.get(&from) else {
            return Room::Discard;
        };
        let need = cost(payload_bytes);
        let mut state = self.lock();
        loop {
            if state.discarding || state.aborted.is_some() {
                return Room::Discard;
            }
            let bound = if state.waiting.is_empty() {
                self.soft_bytes
            } else {
                self.hard_bytes
            };
            let Some(compartment) = state.compartments.get_mut(&from) else {
                return Room::Discard;
            };
            if compartment.end.is_some() {
                return Room::Discard;
            }
            if compartment.held_bytes == 0 || compartment.held_bytes.saturating_add(need) <= bound {
                compartment.stopped_for = None;
                compartment.held_bytes += need;
                raise(&peer.counters.inbox_peak_bytes, compartment.held_bytes);
                return Room::Reserved;
            }
            if compartment.stopped_for.replace(need).is_none() {
                // A receiver that waits for a frame behind this one must learn that it can't come.
                peer.arrived.notify_all();
            }
            state = peer.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts a frame into the room reserved for it.
    pub(crate) fn deliver(&self, frame: Frame) {
        let Some(peer) = self.peers.get(&frame.from()) else {
            return;
        };
        // What the ends of a link agree on is no payload of anybody's.
        if frame.tag().kind != TagKind::Pair {
            add(&peer.counters.bytes_received, frame.len());
            add(&peer.counters.frames_received, 1);
        }
        let mut state = self.lock();
        if let Some(compartment) = state.compartments.get_mut(&frame.from()) {
            compartment
                .frames
                .entry(frame.tag())
                .or_default()
                .push_back(frame);
        }
        drop(state);
        peer.arrived.notify_all();
    }

    /// Another connection brings what comes from `from`: nobody has asked for anything yet.
    pub(crate) fn renew(&self, from: RankId) {
        if let Some(compartment) = self.lock().compartments.get_mut(&from) {
            *compartment = Compartment::default();
        }
    }

    /// Nothing more will come from `from`. The first end stays.
    pub(crate) fn end(&self, from: RankId, end: End) {
        let Some(peer) = self.peers.get(&from) else { return };
        if let Some(compartment) = self.lock().compartments.get_mut(&from) {
            compartment.end.get_or_insert(end);
        }
        peer.arrived.notify_all();
        peer.room.notify_all();
    }

    /// Ends every wait. The first reason stays.
    pub(crate) fn abort(&self, reason: &str) {
        let mut state = self.lock();
        state.aborted.get_or_insert_with(|| reason.to_owned());
        for compartment in state.compartments.values_mut() {
            compartment.frames.clear();
        }
        drop(state);
        self.wake_all();
    }

    /// From now on readers throw away what comes: the transport is closing, and peers must get rid of what
    /// they still send.
    pub(crate) fn discard(&self) {
        self.lock().discarding = true;
        self.wake_all();
    }

    fn wake_all(&self) {
        for peer in self.peers.values() {
            peer.arrived.notify_all();
            peer.room.notify_all();
        }
    }

    /// The oldest frame of `tag`, `None` if there is none yet.
    pub(crate) fn try_take(&self, from: RankId, tag: Tag) -> Result<Option<Frame>, TransportError> {
        let peer = self.peer(from)?;
        let mut state = self.lock();
        let frame = Self::take(&mut state, peer, from, tag)?;
        Ok(frame)
    }

    fn take(state: &mut State, peer: &Peer, from: RankId, tag: Tag) -> Result<Option<Frame>, TransportError> {
        if let Some(reason) = &state.aborted {
            return Err(TransportError::Aborted {
                reason: reason.clone(),
            });
        }
        let compartment = state
            .compartments
            .get_mut(&from)
            .ok_or(TransportError::NotLinked { rank: from })?;
        if let Some(queue) = compartment.frames.get_mut(&tag) {
            let frame = queue.pop_front();
            if queue.is_empty() {
                compartment.frames.remove(&tag);
            }
            if let Some(frame) = frame {
                compartment.held_bytes = compartment.held_bytes.saturating_sub(cost(frame.len()));
                peer.room.notify_all();
                return Ok(Some(frame));
            }
        }
        match &compartment.end {
            Some(end) => Err(end.error(from)),
            None => Ok(None),
        }
    }

    /// The oldest frame of `tag`; waits for it.
    pub(crate) fn wait(&self, from: RankId, tag: Tag, deadline: Deadline) -> Result<Frame, TransportError> {
        if let Some(frame) = self.try_take(from, tag)? {
            return Ok(frame);
        }
        let peer = self.peer(from)?;
        let began = Instant::now();
        let result = self.wait_blocked(peer, from, tag, deadline, began);
        add_time(&peer.counters.recv_blocked_nanos, began.elapsed());
        result
    }

    fn wait_blocked(
        &self,
        peer: &Peer,
        from: RankId,
        tag: Tag,
        deadline: Deadline,
        began: Instant,
    ) -> Result<Frame, TransportError> {
        let _waiting = self.waiting(Blocked {
            on: from,
            operation: Operation::Receive,
            tag: Some(tag),
            since: began,
        });
        let mut state = self.lock();
        loop {
            if let Some(frame) = Self::take(&mut state, peer, from, tag)? {
                return Ok(frame);
            }
            self.check_not_stuck(&state, from, tag)?;
            let left = deadline
                .remaining()
                .ok_or_else(|| TransportError::DeadlineExceeded {
                    operation: Operation::Receive,
                    peer: from,
                    tag: Some(tag),
                    waited: began.elapsed(),
                })?;
            state = wait_timeout(&peer.arrived, state, left);
        }
    }

    /// TR-4: the wanted frame is behind one that doesn't fit under the hard bound.
    fn check_not_stuck(&self, state: &State, from: RankId, tag: Tag) -> Result<(), TransportError> {
        let Some(compartment) = state.compartments.get(&from) else {
            return Ok(());
        };
        match compartment.stopped_for {
            Some(need)
                if compartment.held_bytes > 0
                    && compartment.held_bytes.saturating_add(need) > self.hard_bytes =>
            {
                Err(TransportError::InboxFull {
                    from,
                    tag,
                    held_bytes: compartment.held_bytes,
                    hard_bytes: self.hard_bytes,
                })
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    left: Duration,
) -> MutexGuard<'a, T> {
    condvar
        .wait_timeout(guard, left)
        .unwrap_or_else(PoisonError::into_inner)
        .0
}
