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
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;

use super::{reader, writer};
use crate::error::End;
use crate::hub::{Carrier, Link};
use crate::wire::{FrameType, MAX_REASON_BYTES};
use crate::{Deadline, TransportError};

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

fn run_reader(link: &Link, stream: &TcpStream) {
    let end = reader::read_all(link, stream);
    tracing::debug!(me = %link.gate.me, peer = %link.peer(), ?end, "connection ended");
    let writing = link.end(&end);
    if let (End::Protocol(error), false) = (&end, writing) {
        say_abort(
            link,
            stream,
            &format!("{} broke the protocol: {error}", link.peer()),
        );
    }
    half_close(stream);
    if matches!(end, End::Protocol(_)) {
        // What follows has no meaning, but must be taken so that the peer gets our reason; it stops once it
        // has it.
        drop(std::io::copy(&mut &*stream, &mut std::io::sink()));
    }
}

fn run_writer(link: &Link, stream: &TcpStream) {
    match writer::write_all(link, stream) {
        Ok(true) => half_close(stream),
        Ok(false) => {}
        Err(error) => {
            // The reader says how the connection ended, it may still find the peer's reason.
            link.outbox.end(End::Reset(error.to_string()));
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
        }
    }

    fn close(&mut self, deadline: Deadline) {
        for connection in &mut self.all {
            while deadline.remaining().is_some() && !connection.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !connection.is_finished() {
                connection.link.end(&End::Closed);
                drop(connection.stream.shutdown(Shutdown::Both));
            }
            for thread in connection.threads.drain(..) {
                drop(thread.join());
            }
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
