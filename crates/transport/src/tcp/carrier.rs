//! The threads of a rank's connections: started here, interrupted here, joined here (TR-6).
//!
//! ```text
//!  close:  writer drains -> goodbye -> half-close      the peer's reader takes the goodbye -> half-closes -> our reader ends
//!  abort:  abort frame if the line is idle -> half-close; our reader throws away what comes until the peer closes
//! ```
//!
//! Whoever ends a link half-closes its socket; readers read to the end of the stream, because closing a
//! socket with unread bytes would reset the connection and could destroy our last frames on their way.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;

use super::reader::Glance;
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
    all: Vec<Connection>,
}

struct Connection {
    link: Arc<Link>,
    stream: Arc<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Connections {
    pub(crate) fn start(&mut self, link: &Arc<Link>, stream: TcpStream) -> Result<(), TransportError> {
        let mut connection = Connection {
            link: Arc::clone(link),
            stream: Arc::new(stream),
            threads: Vec::with_capacity(2),
        };
        let line = writer::SocketLine {
            link: Arc::downgrade(link),
            stream: Arc::clone(&connection.stream),
        };
        link.outbox.set_line(Box::new(line));
        let started = connection
            .spawn("read", run_reader)
            .and_then(|()| connection.spawn("write", run_writer));
        // Even half started it has to be joined.
        self.all.push(connection);
        started.map_err(|source| TransportError::Io {
            what: "start a connection's threads".to_owned(),
            source,
        })
    }
}

impl Connection {
    fn spawn(&mut self, what: &str, body: fn(&Link, &TcpStream)) -> std::io::Result<()> {
        let (link, stream) = (Arc::clone(&self.link), Arc::clone(&self.stream));
        let name = format!("{what}-{}-{}", link.gate.me.rank.0, link.peer().0);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || body(&link, &stream))?;
        self.threads.push(thread);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Sockets are shut down and what goes apart is stopped by now, so the threads end; one that is stuck inside somebody else's library is
    /// left behind.
    fn join(&mut self) {
        let until = Deadline::after(STUCK);
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && until.remaining().is_some() {
                std::thread::sleep(Duration::from_millis(1));
            }
            match thread.is_finished() {
                true => drop(thread.join()),
                false => tracing::error!(peer = %self.link.peer(), "a connection's thread doesn't end"),
            }
        }
    }
}

/// Fails only when the other end is already gone.
fn half_close(stream: &TcpStream) {
    drop(stream.shutdown(Shutdown::Write));
}

/// Tells the peer why, if that is possible without waiting.
fn say_abort(link: &Link, stream: &TcpStream, reason: &str) {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason.as_bytes()[..end];
    let mut bytes = link.gate.header(FrameType::Abort, reason.len()).encode().to_vec();
    bytes.extend_from_slice(reason);
    // A full socket or a dead peer: then it sees the end of the stream instead.
    drop(SockRef::from(stream).send_with_flags(&bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL));
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

fn run_reader(link: &Link, stream: &TcpStream) {
    let end = reader::read_all(link, stream, &stream);
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
        say_abort(link, stream, reason);
    }
    half_close(stream);
    if reason.is_some() {
        // What follows has no meaning, but must be taken so that the peer gets our reason; it stops once it
        // has it.
        drop(std::io::copy(&mut &*stream, &mut std::io::sink()));
    }
}

fn run_writer(link: &Link, stream: &TcpStream) {
    match writer::write_all(link, stream, &stream) {
        Ok(true) => half_close(stream),
        Ok(false) => {}
        Err(error) => {
            // The reader says how the connection ended, it may still find the peer's reason.
            link.outbox.end(End::Reset(error.to_string()));
            link.stop_apart();
            half_close(stream);
        }
    }
}

impl Carrier for Connections {
    fn abort(&self, reason: &str) {
        for connection in &self.all {
            let writing = connection.link.outbox.end(End::Aborted(reason.to_owned()));
            if !writing {
                say_abort(&connection.link, &connection.stream, reason);
            }
            half_close(&connection.stream);
            connection.link.stop_apart();
        }
    }

    fn close(&mut self, deadline: Deadline) {
        for connection in &mut self.all {
            while deadline.remaining().is_some() && !connection.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !connection.is_finished() {
                connection.link.end(&End::Closed);
                connection.link.stop_apart();
                drop(connection.stream.shutdown(Shutdown::Both));
            }
            connection.join();
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        // Only a start that failed half-way has anything left to do here.
        for connection in &self.all {
            connection.link.end(&End::Closed);
        }
        self.close(Deadline::after(Duration::ZERO));
    }
}
