//! Writes frames from the outbox to one connection: header and payload in one vectored write, several small
//! frames together.
//!
//! In: batches of the outbox. Out: bytes. No payload is copied.

use std::io::{Error, ErrorKind, IoSlice, Write};
use std::net::TcpStream;
use std::sync::{Arc, Weak};

use socket2::SockRef;

use super::reader::Glance;
use crate::Tag;
use crate::hub::Link;
use crate::outbox::{Line, Next, Outgoing};
use crate::wire::{FrameType, HEADER_BYTES, checksum};

const BATCH_FRAMES: usize = 32;
/// A batch ends behind the frame that reaches this, so that callers waiting for room aren't kept for long.
const BATCH_BYTES: usize = 256 * 1024;

/// Writes a frame that is no data.
pub(crate) fn write_frame(mut stream: impl Write, bytes: &[u8]) -> Result<(), Error> {
    stream.write_all(bytes)
}

/// Writes until the outbox ends. `Ok(true)` after a goodbye, `Ok(false)` when the link ended otherwise; what was
/// written are whole frames.
pub(crate) fn write_all(link: &Link, mut stream: impl Write, glance: &dyn Glance) -> Result<bool, Error> {
    loop {
        match link.outbox.take(BATCH_FRAMES, BATCH_BYTES) {
            Next::Write(batch) => {
                if !write_batch(link, &mut stream, &batch, glance)? {
                    return Ok(false);
                }
                link.outbox.written(batch);
            }
            Next::Ready => {
                write_ready(link, &mut stream)?;
                link.outbox.told_ready();
            }
            Next::Goodbye => {
                stream.write_all(&link.gate.header(FrameType::Goodbye, 0).encode())?;
                return Ok(true);
            }
            Next::Stop => return Ok(false),
        }
    }
}

fn header(link: &Link, tag: Tag, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = link.gate.header(FrameType::Data(tag), payload.len());
    header.payload_checksum = link.payload_checksum.then(|| checksum(payload));
    header.encode()
}

/// The slices of a frame without its first `skip` bytes.
fn slices<'a>(header: &'a [u8], payload: &'a [u8], skip: usize) -> [IoSlice<'a>; 2] {
    let in_payload = skip.saturating_sub(header.len());
    [
        IoSlice::new(&header[skip.min(header.len())..]),
        IoSlice::new(&payload[in_payload..]),
    ]
}

fn write_ready(link: &Link, stream: &mut impl Write) -> Result<(), Error> {
    stream.write_all(&link.gate.header(FrameType::Ready, 0).encode())
}

/// `Ok(false)` when the link ended in the middle.
fn write_batch(
    link: &Link,
    stream: &mut impl Write,
    mut batch: &[Outgoing],
    glance: &dyn Glance,
) -> Result<bool, Error> {
    let apart = |item: &Outgoing| link.outbox.goes_apart(item.payload.len());
    while let Some(at) = batch.iter().position(apart) {
        write_run(link, stream, &batch[..at])?;
        if !write_apart(link, stream, &batch[at], glance)? {
            return Ok(false);
        }
        batch = &batch[at + 1..];
    }
    write_run(link, stream, batch)?;
    Ok(true)
}

/// Announces a payload and lets it go its own way once the peer is ready. The other direction isn't held up meanwhile.
fn write_apart(
    link: &Link,
    stream: &mut impl Write,
    item: &Outgoing,
    glance: &dyn Glance,
) -> Result<bool, Error> {
    let Some(apart) = link.apart.get() else {
        return write_run(link, stream, std::slice::from_ref(item)).map(|()| true);
    };
    let payload = item.payload.bytes();
    let mut header = link.gate.header(FrameType::Apart(item.tag), payload.len());
    header.payload_checksum = link.payload_checksum.then(|| checksum(payload));
    link.outbox.announce();
    stream.write_all(&header.encode())?;
    if !link.outbox.await_ready(|| write_ready(link, stream))? {
        return Ok(false);
    }
    let mut gone = || {
        let told = !link.outbox.take_owed() || write_ready(link, stream).is_ok();
        !told || glance.hung_up()
    };
    let sent = apart.send(payload, &mut gone);
    // The connection is between frames still, so the peer can be told why.
    if let Err(end) = &sent {
        link.end(end);
    }
    Ok(sent.is_ok())
}

fn write_run(link: &Link, stream: &mut impl Write, batch: &[Outgoing]) -> Result<(), Error> {
    let headers: Vec<_> = batch
        .iter()
        .map(|item| header(link, item.tag, item.payload.bytes()))
        .collect();
    let mut slices: Vec<IoSlice<'_>> = headers
        .iter()
        .zip(batch)
        .flat_map(|(header, item)| slices(header, item.payload.bytes(), item.skip))
        .filter(|slice| !slice.is_empty())
        .collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match stream.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One connection's [`Line`]. Weak, as the outbox that holds it belongs to the link.
pub(crate) struct SocketLine {
    pub(crate) link: Weak<Link>,
    pub(crate) stream: Arc<TcpStream>,
}

impl Line for SocketLine {
    fn write_now(&self, tag: Tag, payload: &[u8]) -> usize {
        let Some(link) = self.link.upgrade() else { return 0 };
        let header = header(&link, tag, payload);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // On an error nothing was taken; the writer meets the same error and reports it.
        SockRef::from(&*self.stream)
            .send_vectored_with_flags(&slices(&header, payload, 0), flags)
            .unwrap_or(0)
    }
}
