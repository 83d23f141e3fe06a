//! The threads of a rank's connections: started here, interrupted here, joined here (TR-6).
//!
//! ```text
//!  close:  writer drains -> goodbye -> half-close      the peer's reader takes the goodbye -> half-closes -> our reader ends
//!  abort:  writer finishes what was begun -> abort frame -> waits for the link of another epoch (see `serving`), or for the close
//! ```
//!
//! Whoever ends a connection half-closes its socket; readers read to the end of the stream, because closing a
//! socket with unread bytes would reset the connection and could destroy our last frames on their way.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rekindle_types::RankId;
use socket2::SockRef;

use super::reader::Glance;
use super::serving::Serving;
use super::{reader, writer};
use crate::error::End;
use crate::hub::{Carrier, Link};
use crate::wire::{FrameType, MAX_REASON_BYTES};
use crate::{Deadline, TransportError};

/// How long a thread that was told to end is waited for.
const STUCK: Duration = Duration::from_secs(30);

/// All connections of one rank.
#[derive(Default)]
pub struct Connections {
    all: Mutex<Vec<Connection>>,
}

/// A socket and its two threads. They outlive the link that they serve, if another epoch takes the connection over.
pub(crate) struct Connection {
    peer: RankId,
    serving: Arc<Serving>,
    stream: Arc<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Connections {
    fn all(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn start(&self, link: &Arc<Link>, stream: TcpStream) -> Result<(), TransportError> {
        let mut connection = Connection {
            peer: link.peer(),
            serving: Arc::new(Serving::new(link)),
            stream: Arc::new(stream),
            threads: Vec::with_capacity(2),
        };
        connection.speaks_for(link);
        let started = connection
            .spawn("read", |serving, stream, _| run_reader(serving, stream))
            .and_then(|()| connection.spawn("write", run_writer));
        // Even half started it has to be joined.
        self.add(connection);
        started.map_err(|source| TransportError::Io {
            what: "start a connection's threads".to_owned(),
            source,
        })
    }

    /// Takes a connection over.
    pub(crate) fn add(&self, connection: Connection) {
        self.all().push(connection);
    }

    /// Gives its connections to another epoch.
    pub(crate) fn take(&self) -> Vec<Connection> {
        std::mem::take(&mut *self.all())
    }
}

impl Connection {
    pub(crate) fn peer(&self) -> RankId {
        self.peer
    }

    pub(crate) fn serving(&self) -> &Arc<Serving> {
        &self.serving
    }

    /// Lets callers of the link write small frames themselves.
    fn speaks_for(&self, link: &Arc<Link>) {
        let line = writer::SocketLine {
            link: Arc::downgrade(link),
            stream: Arc::clone(&self.stream),
        };
        link.outbox.set_line(Box::new(line));
    }

    /// From now on it is for `link`, of a newer epoch; the link before was aborted.
    pub(crate) fn turn(&self, link: &Arc<Link>) {
        link.outbox.hold();
        self.speaks_for(link);
        self.serving.turn(Arc::clone(link));
    }

    /// Whether the peer has followed to the link's epoch and is still there: one that came first and gave up
    /// meanwhile has left a fence, and the end of the stream behind it.
    pub(crate) fn stands(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let looks = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let more = SockRef::from(&*self.stream).recv_with_flags(&mut byte, looks);
        let open = more.map_or_else(|error| error.kind() == ErrorKind::WouldBlock, |bytes| bytes > 0);
        open && self.serving.is_met()
    }

    /// Ends it at once, whatever is under way.
    pub(crate) fn sever(self) {
        drop(self);
    }

    /// The thread is given the first link: it may come to run only after the connection was turned.
    fn spawn(&mut self, what: &str, body: fn(&Serving, &TcpStream, Arc<Link>)) -> std::io::Result<()> {
        let (serving, stream, link) = (
            Arc::clone(&self.serving),
            Arc::clone(&self.stream),
            self.serving.link(),
        );
        let name = format!("{what}-{}-{}", link.gate.me.rank.0, self.peer.0);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || body(&serving, &stream, link))?;
        self.threads.push(thread);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends what hasn't ended by itself.
    fn cut(&self) {
        if !self.is_finished() {
            let link = self.serving.link();
            link.end(&End::Closed);
            link.stop_apart();
        }
        // Not left to the drop of the socket: links that it served may hold it for longer.
        drop(self.stream.shutdown(Shutdown::Both));
    }

    /// After [`Connection::cut`] the threads end; one that is stuck inside somebody else's library is left behind.
    fn join(&mut self, deadline: Deadline) {
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && deadline.remaining().is_some() {
                std::thread::sleep(Duration::from_millis(1));
            }
            match thread.is_finished() {
                true => drop(thread.join()),
                false => tracing::error!(peer = %self.peer, "a connection's thread doesn't end"),
            }
        }
    }
}

/// Fails only when the other end is already gone.
fn half_close(stream: &TcpStream) {
    drop(stream.shutdown(Shutdown::Write));
}

/// The frame that tells the peer why.
fn abort_frame(link: &Link, reason: &str) -> Vec<u8> {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason.as_bytes()[..end];
    let mut bytes = link.gate.header(FrameType::Abort, reason.len()).encode().to_vec();
    bytes.extend_from_slice(reason);
    bytes
}

/// Which of `events` a socket has, without waiting; an error or a hang-up counts as any.
fn has(stream: &TcpStream, events: libc::c_short) -> bool {
    let mut asked = libc::pollfd {
        fd: stream.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one descriptor, open as long as the stream is borrowed; doesn't wait.
    let answered = unsafe { libc::poll(&raw mut asked, 1, 0) };
    answered > 0 && asked.revents != 0
}

impl Glance for &TcpStream {
    fn hung_up(&self) -> bool {
        has(self, libc::POLLRDHUP)
    }

    fn readable(&self) -> bool {
        has(self, libc::POLLIN)
    }
}

fn run_reader(serving: &Serving, stream: &TcpStream) {
    let end = reader::read_all(serving, stream, &stream);
    let link = serving.link();
    tracing::debug!(me = %link.gate.me, peer = %link.peer(), ?end, "connection ended");
    let writing = link.end(&end);
    if !matches!(end, End::Closed) {
        link.stop_apart();
    }
    let reason = match &end {
        End::Protocol(error) => Some(format!("{} broke the protocol: {error}", link.peer())),
        End::Nccl(detail) => Some(format!("NCCL with {}: {detail}", link.peer())),
        _ => None,
    };
    if let (Some(reason), false) = (&reason, writing) {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // A full socket or a dead peer: then it sees the end of the stream instead.
        drop(SockRef::from(stream).send_with_flags(&abort_frame(&link, reason), flags));
    }
    // Only now, as the writer then ends the stream; it may have been turned to another link meanwhile.
    serving.end().end(&end);
    half_close(stream);
    if reason.is_some() {
        // What follows has no meaning, but must be taken so that the peer gets our reason; it stops once it
        // has it.
        drop(std::io::copy(&mut &*stream, &mut std::io::sink()));
    }
}

fn run_writer(serving: &Serving, stream: &TcpStream, mut link: Arc<Link>) {
    loop {
        let stopped = match writer::write_all(&link, stream, &stream) {
            Ok(goodbye) => !goodbye,
            Err(error) => {
                // The reader says how the connection ended, it may still find the peer's reason.
                link.outbox.end(End::Reset(error.to_string()));
                link.stop_apart();
                false
            }
        };
        let next = stopped.then(|| writes_on(serving, &link, stream)).flatten();
        match next {
            Some(next) => link = next,
            None => return half_close(stream),
        }
    }
}

/// Tells the peer that this rank gave up, if that is how the link ended, and waits for the link of another epoch.
fn writes_on(serving: &Serving, link: &Arc<Link>, stream: &TcpStream) -> Option<Arc<Link>> {
    if let Some(reason) = link.outbox.given_up() {
        writer::write_frame(stream, &abort_frame(link, &reason)).ok()?;
    }
    // What goes apart may be in the middle of a payload, whose bytes the connection doesn't know: it isn't kept.
    if link.apart.get().is_some() {
        return None;
    }
    let next = serving.next(link)?;
    writer::write_frame(stream, &next.gate.header(FrameType::Fence, 0).encode()).ok()?;
    next.outbox.release();
    Some(next)
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.serving.close();
        self.cut();
        self.join(Deadline::after(STUCK));
    }
}

impl Carrier for Connections {
    fn abort(&self, reason: &str) {
        for connection in &*self.all() {
            let link = connection.serving.link();
            link.outbox.end(End::Aborted(reason.to_owned()));
            link.stop_apart();
        }
    }

    fn close(&mut self, deadline: Deadline) {
        let mut all = self.take();
        all.iter().for_each(|connection| connection.serving.close());
        while deadline.remaining().is_some() && !all.iter().all(Connection::is_finished) {
            std::thread::sleep(Duration::from_millis(1));
        }
        all.iter().for_each(Connection::cut);
        let stuck = Deadline::after(STUCK);
        all.iter_mut().for_each(|connection| connection.join(stuck));
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        // Only a start that failed half-way has anything left to do here.
        for connection in &*self.all() {
            connection.serving.link().end(&End::Closed);
        }
        self.close(Deadline::after(Duration::ZERO));
    }
}
