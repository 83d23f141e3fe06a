//! Token ids on the device, and on the host, where they are checked and grouped.

use std::sync::{Mutex, PoisonError};

use super::super::driver::{Event, Memory, Pinned, Stream};
use crate::Result;

/// Token ids.
#[derive(Default)]
pub struct CudaIndices {
    pub(super) values: Vec<u32>,
    there: Upload,
    groups: Mutex<Groups>,
}

/// Rows by token, made when they are first asked for.
#[derive(Default)]
struct Groups {
    made: bool,
    count: usize,
    rows: Upload,
    groups: Upload,
}

/// Where a kernel finds rows by token, see `accumulate_rows` in sums.cu.
pub(super) struct Grouped {
    pub rows: u64,
    pub groups: u64,
    pub count: usize,
}

impl CudaIndices {
    /// Copies ids, without a stop.
    pub(super) fn write(&mut self, stream: &Stream, values: &[u32]) -> Result<()> {
        self.values.clear();
        self.values.extend_from_slice(values);
        self.groups.get_mut().unwrap_or_else(PoisonError::into_inner).made = false;
        self.there.send(stream, values, values.len())
    }

    /// The address of the first one.
    pub(super) fn at(&self) -> u64 {
        self.there.at()
    }

    pub(super) fn grouped(&self, stream: &Stream) -> Result<Grouped> {
        let mut held = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.made {
            let (rows, groups) = crate::cpu::groups(&self.values);
            let flat: Vec<u32> = groups
                .iter()
                .flat_map(|&(token, first, count)| [token, first as u32, count as u32])
                .collect();
            held.count = groups.len();
            held.rows.send(stream, &rows, rows.len())?;
            // Room for as many groups as there can be, so that it never grows: a place that is given back leaves a gap.
            held.groups.send(stream, &flat, 3 * self.values.len())?;
            held.made = true;
        }
        Ok(Grouped {
            rows: held.rows.at(),
            groups: held.groups.at(),
            count: held.count,
        })
    }
}

/// Words on their way to the device: pinned memory, so that nobody waits for the copy but whoever overwrites it.
#[derive(Default)]
struct Upload(Option<(Pinned, Memory, Event)>);

impl Upload {
    fn at(&self) -> u64 {
        self.0.as_ref().map_or(0, |(_, memory, _)| memory.at())
    }

    /// Sends words to a place that has room for at least so many.
    fn send(&mut self, stream: &Stream, words: &[u32], room: usize) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        if let Some((host, device, copied)) = &mut self.0
            && host.len() >= bytes.len()
        {
            copied.synchronize()?;
            host.slice_mut()[..bytes.len()].copy_from_slice(bytes);
            stream.copy_in_later(device.at(), host, bytes.len())?;
            return stream.record(copied);
        }
        let room = bytes.len().max(room * size_of::<u32>());
        let mut host = Pinned::new(stream.context(), room)?;
        let device = Memory::new(stream.context(), room)?;
        host.slice_mut()[..bytes.len()].copy_from_slice(bytes);
        stream.copy_in_later(device.at(), &host, bytes.len())?;
        let copied = stream.event()?;
        // What was there before goes after the copy into the new place was given. Its users come first in the same
        // stream (CP-6).
        self.0 = Some((host, device, copied));
        Ok(())
    }
}
