//! Dials and accepts until every link of an epoch stands, or fails as a whole.
//!
//! ```text
//!  dialling thread per higher rank:  connect -> hello -> welcome or refusal (retry while the peer is absent or at an older epoch)
//!  accept loop, thread per caller:   hello -> judge -> welcome or refusal
//! ```
//!
//! In: the listener, whom to dial, whom to expect, connections that may be kept. Out: one stream per link that had to
//! be made. All threads are scoped and end before this returns; strangers that connect and say nothing hold nobody
//! up, and only so many of them are listened to at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::Scope;
use std::time::Duration;

use rekindle_types::RankId;

use super::carrier::Connection;
use super::handshake::{GREETING_BYTES, Greeting, PROTOCOL_VERSION, judge};
use super::socket::{read_by, tune};
use crate::{Deadline, Identity, Options, RefusalReason, TransportError};

const POLL: Duration = Duration::from_millis(1);
const LONGEST_BACKOFF: Duration = Duration::from_millis(100);
const STRANGERS_AT_ONCE: usize = 32;
const NOTES: usize = 8;

enum Event {
    Connected(RankId, TcpStream),
    Fatal(TransportError),
    Note(String),
}

struct Attempt<'a> {
    me: &'a Identity,
    expected: &'a BTreeSet<RankId>,
    options: &'a Options,
    deadline: Deadline,
    stop: AtomicBool,
    listening_to: AtomicUsize,
}

/// The links of an epoch.
pub(crate) struct Wanted<'a> {
    /// This member.
    pub(crate) me: &'a Identity,
    /// Higher ranks.
    pub(crate) dial: &'a BTreeMap<RankId, SocketAddr>,
    /// Lower ranks.
    pub(crate) accept: &'a BTreeSet<RankId>,
    /// Connections of some of them that may be kept: their peers' fences are awaited.
    pub(crate) turning: BTreeMap<RankId, Connection>,
}

impl Wanted<'_> {
    fn all(&self) -> BTreeSet<RankId> {
        self.dial.keys().chain(self.accept).copied().collect()
    }
}

/// All links of an epoch: the connections that are kept, and streams that were made.
pub(crate) struct Stand {
    pub(crate) kept: BTreeMap<RankId, Connection>,
    pub(crate) made: BTreeMap<RankId, TcpStream>,
}

pub(crate) fn establish<'a>(
    listener: &TcpListener,
    mut wanted: Wanted<'a>,
    options: &'a Options,
    deadline: Deadline,
) -> Result<Stand, TransportError> {
    let attempt = Attempt {
        me: wanted.me,
        expected: wanted.accept,
        options,
        deadline,
        stop: AtomicBool::new(false),
        listening_to: AtomicUsize::new(0),
    };
    std::thread::scope(|scope| {
        let (events, inbox) = channel();
        let result = attempt.gather(scope, listener, &mut wanted, &events, &inbox);
        attempt.stop.store(true, Ordering::Relaxed);
        result
    })
}

impl<'a> Attempt<'a> {
    fn gather<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        listener: &TcpListener,
        wanted: &mut Wanted<'a>,
        events: &Sender<Event>,
        inbox: &Receiver<Event>,
    ) -> Result<Stand, TransportError> {
        let dial = |rank: RankId| {
            if let Some(&address) = wanted.dial.get(&rank) {
                let events = events.clone();
                scope.spawn(move || self.dial(rank, address, &events));
            }
        };
        let (all, turning) = (wanted.all(), &mut wanted.turning);
        all.iter()
            .copied()
            .filter(|rank| !turning.contains_key(rank))
            .for_each(dial);
        let turn_by = self.deadline.earlier(Deadline::after(self.options.handshake));
        let (mut made, mut kept) = (BTreeMap::new(), BTreeMap::new());
        let mut notes: Vec<String> = Vec::new();
        loop {
            for (rank, connection) in turned(turning, turn_by) {
                if connection.stands() {
                    kept.insert(rank, connection);
                } else {
                    // Severed at once: the peer has to see that this one is of no use.
                    connection.sever();
                    dial(rank);
                }
            }
            if made.len() + kept.len() == all.len() {
                return Ok(Stand { kept, made });
            }
            match inbox.try_recv() {
                // The latest connection of a rank counts: it gave up on the earlier one.
                Ok(Event::Connected(rank, stream)) => {
                    let given_up = turning.remove(&rank).or_else(|| kept.remove(&rank));
                    given_up.into_iter().for_each(Connection::sever);
                    made.insert(rank, stream);
                }
                Ok(Event::Fatal(error)) => return Err(error),
                Ok(Event::Note(note)) if notes.len() < NOTES && !notes.contains(&note) => notes.push(note),
                Ok(Event::Note(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                    if self.deadline.remaining().is_none() {
                        let stands = |rank: &RankId| made.contains_key(rank) || kept.contains_key(rank);
                        return Err(TransportError::ConnectDeadline {
                            missing: all.iter().copied().filter(|rank| !stands(rank)).collect(),
                            detail: notes.join("; "),
                        });
                    }
                    if !self.accept_one(scope, listener, events)? {
                        std::thread::sleep(POLL);
                    }
                }
            }
        }
    }

    fn accept_one<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        listener: &TcpListener,
        events: &Sender<Event>,
    ) -> Result<bool, TransportError> {
        match listener.accept() {
            Ok((stream, address)) => {
                if self.listening_to.load(Ordering::Relaxed) < self.expected.len() + STRANGERS_AT_ONCE {
                    self.listening_to.fetch_add(1, Ordering::Relaxed);
                    let events = events.clone();
                    scope.spawn(move || self.answer(&stream, address, &events));
                }
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            // The caller was gone before we took it, or we are short of descriptors for a moment: bounded by
            // the deadline.
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                Ok(false)
            }
        }
    }

    fn greeting(&self, to: RankId, refusal: Option<RefusalReason>) -> [u8; GREETING_BYTES] {
        Greeting {
            version: PROTOCOL_VERSION,
            refusal,
            from: self.me.clone(),
            to,
        }
        .encode()
    }

    /// One accepted connection.
    fn answer(&self, stream: &TcpStream, address: SocketAddr, events: &Sender<Event>) {
        let deadline = self.deadline.earlier(Deadline::after(self.options.handshake));
        let event = match self.try_answer(stream, deadline) {
            Ok((hello, None)) => match stream.try_clone() {
                Ok(stream) => Event::Connected(hello.from.rank, stream),
                Err(error) => Event::Note(format!("{address}: {error}")),
            },
            Ok((hello, Some(reason))) => {
                tracing::warn!(%address, caller = %hello.from, %reason, "refused a connection");
                Event::Note(format!("refused {} from {address}: {reason}", hello.from))
            }
            Err(error) => Event::Note(format!("a caller from {address} sent no greeting: {error}")),
        };
        self.listening_to.fetch_sub(1, Ordering::Relaxed);
        // The receiver is gone once all links stand; this caller was a stranger then.
        drop(events.send(event));
    }

    fn try_answer(
        &self,
        mut stream: &TcpStream,
        deadline: Deadline,
    ) -> std::io::Result<(Greeting, Option<RefusalReason>)> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(self.options.handshake))?;
        let mut bytes = [0; GREETING_BYTES];
        read_by(stream, &mut bytes, deadline, &self.stop)?;
        let hello = Greeting::decode(&bytes).map_err(std::io::Error::other)?;
        let refusal = judge(&hello, self.me, self.expected);
        stream.write_all(&self.greeting(hello.from.rank, refusal))?;
        stream.set_write_timeout(None)?;
        tune(stream, self.options);
        Ok((hello, refusal))
    }

    /// Tries one peer until it answers.
    fn dial(&self, rank: RankId, address: SocketAddr, events: &Sender<Event>) {
        let mut backoff = POLL;
        while let Some(left) = self.deadline.remaining() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            match self.try_dial(rank, address) {
                Ok(Ok(stream)) => return drop(events.send(Event::Connected(rank, stream))),
                Ok(Err(error)) => return drop(events.send(Event::Fatal(error))),
                Err(error) => drop(events.send(Event::Note(format!("{rank} at {address}: {error}")))),
            }
            std::thread::sleep(backoff.min(left));
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// Outer error: try again. Inner error: never.
    fn try_dial(
        &self,
        rank: RankId,
        address: SocketAddr,
    ) -> std::io::Result<Result<TcpStream, TransportError>> {
        let left = self.deadline.remaining().ok_or(ErrorKind::TimedOut)?;
        let mut stream = TcpStream::connect_timeout(&address, left.min(self.options.handshake))?;
        tune(&stream, self.options);
        stream.set_write_timeout(Some(self.options.handshake))?;
        stream.write_all(&self.greeting(rank, None))?;
        let mut bytes = [0; GREETING_BYTES];
        // The peer may be busy with the end of its last epoch: wait for its answer as long as we may.
        read_by(&stream, &mut bytes, self.deadline, &self.stop)?;
        stream.set_write_timeout(None)?;
        let reply = match Greeting::decode(&bytes) {
            Ok(reply) => reply,
            Err(source) => return Ok(Err(TransportError::Protocol { rank, source })),
        };
        if reply.refusal == Some(RefusalReason::Epoch) && reply.from.epoch < self.me.epoch {
            return Err(std::io::Error::other(format!("it is still {}", reply.from)));
        }
        Ok(self.check_reply(rank, &reply).map(|()| stream))
    }

    fn check_reply(&self, rank: RankId, reply: &Greeting) -> Result<(), TransportError> {
        let expected = BTreeSet::from([rank]);
        let Some(reason) = reply.refusal.or_else(|| judge(reply, self.me, &expected)) else {
            return Ok(());
        };
        let theirs = format!("{} with protocol version {}", reply.from, reply.version);
        Err(TransportError::Refused {
            reason,
            ours: Box::new(self.me.clone()),
            theirs,
        })
    }
}

/// Takes the connections out of `turning` whose peers have followed, or won't.
fn turned(turning: &mut BTreeMap<RankId, Connection>, by: Deadline) -> BTreeMap<RankId, Connection> {
    let late = by.remaining().is_none();
    let decided = |connection: &Connection| {
        let serving = connection.serving();
        late || serving.is_over() || serving.is_met()
    };
    let all = std::mem::take(turning);
    let (known, open) = all.into_iter().partition(|(_, connection)| decided(connection));
    *turning = open;
    known
}
