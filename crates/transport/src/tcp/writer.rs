//! Writes frames from the outbox to one connection: header and payload in one vectored write, several small frames together.
//!
//! In: batches of the outbox. Out: bytes. No payload is copied.

use std::io::{Error, ErrorKind, IoSlice, Write};

use crate::Payload;
use crate::Tag;
use crate::hub::Link;
use crate::outbox::Next;
use crate::wire::{FrameType, HEADER_BYTES, checksum};

const BATCH_FRAMES: usize = 32;
/// A batch ends behind the frame that reaches this, so that callers waiting for room aren't kept for long.
const BATCH_BYTES: usize = 256 * 1024;

/// Writes until the outbox ends. `Ok(true)` after a goodbye, `Ok(false)` when somebody else ended the link.
pub(crate) fn write_all(link: &Link, mut stream: impl Write) -> Result<bool, Error> {
    loop {
        match link.outbox.take(BATCH_FRAMES, BATCH_BYTES) {
            Next::Write(batch) => {
                write_batch(link, &mut stream, &batch)?;
                link.outbox.written(batch);
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

fn write_batch(link: &Link, stream: &mut impl Write, batch: &[(Tag, Payload)]) -> Result<(), Error> {
    let headers: Vec<_> = batch
        .iter()
        .map(|(tag, payload)| header(link, *tag, payload.bytes()))
        .collect();
    let mut slices: Vec<IoSlice<'_>> = headers
        .iter()
        .zip(batch)
        .flat_map(|(header, (_, payload))| [IoSlice::new(header), IoSlice::new(payload.bytes())])
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
