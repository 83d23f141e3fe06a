//! Memory of the device, and pinned memory of the host.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::result;

use super::super::arena::ALIGNMENT;
use super::{Context, Named, Stream, failed, refused};
use crate::tally::Counted;
use crate::{ComputeError, Result};

/// Memory of the device.
pub struct Memory {
    context: Arc<Context>,
    at: u64,
    bytes: usize,
    /// It is a part of what the context has reserved.
    reserved: bool,
    _counted: Counted,
}

impl Memory {
    /// `bytes` that hold anything.
    ///
    /// # Errors
    /// [`ComputeError::OutOfMemory`] when there is no more.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        context.bind()?;
        let reserved = context.take_reserved(bytes);
        let at = match reserved {
            Some(at) => at,
            None => allocate(bytes)?,
        };
        if reserved.is_none() {
            context.went_beside(bytes);
        }
        Ok(Self {
            context: Arc::clone(context),
            at,
            bytes,
            reserved: reserved.is_some(),
            _counted: context.tally().count(bytes.max(1).next_multiple_of(ALIGNMENT)),
        })
    }

    /// `bytes` of zeroes, once the stream gets there.
    ///
    /// # Errors
    /// As [`Memory::new`].
    pub fn zeroed(stream: &Stream, bytes: usize) -> Result<Self> {
        let memory = Self::new(&stream.context, bytes)?;
        stream.zero(memory.at, bytes)?;
        Ok(memory)
    }

    /// Its address.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.reserved {
            self.context.give_reserved(self.at, self.bytes);
        } else if self.context.bind().is_ok() {
            // SAFETY: given by the driver in `new`, freed once. The driver waits for work that may use it.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// Memory from the driver. The context is current.
pub(super) fn allocate(bytes: usize) -> Result<u64> {
    // SAFETY: nothing is read from it before it is written; whoever asks frees it once. No allocation is empty.
    unsafe { result::malloc_sync(bytes.max(16)) }.map_err(|error| {
        let (free, all) = result::mem_get_info().unwrap_or_default();
        let mib = |bytes: usize| bytes >> 20;
        let what = format!(
            "cuMemAlloc of {} MiB (of {} MiB, {} are free)",
            mib(bytes),
            mib(all),
            mib(free)
        );
        failed(&what, error)
    })
}

/// Memory of the host that copies go to and from without a stop.
pub struct Pinned {
    context: Arc<Context>,
    at: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its memory, as a box does.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `bytes` of zeroes, every page touched.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when the host has no more: that is nothing of the device's memory.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        context.bind()?;
        let len = bytes.max(1);
        // SAFETY: filled below before anything reads it; freed when this is dropped.
        let at = unsafe { result::malloc_host(len, 0) }
            .named("cuMemHostAlloc")
            .map_err(|error| match error {
                ComputeError::OutOfMemory { what } => refused(format!(
                    "{what}: the host has no {} MiB more of pinned memory; lower checkpoint.pool or allow the process more",
                    len >> 20
                )),
                other => other,
            })?;
        // SAFETY: the driver gave `len` bytes.
        unsafe { std::ptr::write_bytes(at.cast::<u8>(), 0, len) };
        Ok(Self {
            context: Arc::clone(context),
            at: at.cast(),
            bytes,
        })
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Where kernels find it: with one address space for host and device, which every 64-bit system has, pinned
    /// memory has the same address in both.
    pub fn at(&self) -> u64 {
        self.at as u64
    }

    /// The bytes. A copy into them must have ended.
    pub fn slice(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes that live as long as this; copies into it want `&mut` and are waited for
        // by their callers.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }

    /// The bytes, to be written. A copy from them must have ended.
    pub fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: given by the driver in `new`, freed once. The driver waits for copies.
            let _ = unsafe { result::free_host(self.at.cast::<c_void>()) };
        }
    }
}
