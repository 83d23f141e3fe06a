//! Memory of the CPU device: zeroed, aligned to a cache line, or to a page (so that it can be written to a disk as it
//! lies) where it is at least a page long. Large buffers come straight from the system in pages that cost nothing
//! until touched, and ask for huge pages (fewer misses in address translation).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use bytemuck::Pod;

use super::memory::StateMemory;
use crate::tally::{Counted, Tally};
use crate::{ComputeError, Result};

const LINE: usize = 64;
const PAGE: usize = 4096;
/// Bytes from which on a buffer is mapped on its own.
const LARGE: usize = 2 << 20;

/// A fixed-size array of plain values that starts at a cache line (at a page if it is at least that long).
#[derive(Debug)]
pub struct Aligned<T> {
    start: NonNull<T>,
    len: usize,
    /// Who provided the memory, where it isn't the system.
    owner: Option<Arc<dyn StateMemory>>,
    /// Where it was handed out by a device.
    counted: Option<Counted>,
}

// SAFETY: an `Aligned` owns its memory as a `Vec` does, and plain values may be shared and sent.
unsafe impl<T: Pod + Send> Send for Aligned<T> {}
// SAFETY: as above; there is no interior mutability.
unsafe impl<T: Pod + Sync> Sync for Aligned<T> {}

impl<T: Pod> Aligned<T> {
    /// No elements.
    pub(super) fn empty() -> Self {
        Self {
            start: NonNull::dangling(),
            len: 0,
            owner: None,
            counted: None,
        }
    }

    /// `len` zeroes.
    ///
    /// # Errors
    /// [`ComputeError::OutOfMemory`] when the system gives no such buffer.
    pub fn zeroed(len: usize) -> Result<Self> {
        if len == 0 || size_of::<T>() == 0 {
            return Ok(Self::empty());
        }
        let refused = || ComputeError::OutOfMemory {
            what: format!(
                "no memory for a buffer of {len} elements of {} bytes; make the model or the micro-batch smaller",
                size_of::<T>()
            ),
        };
        let layout = layout::<T>(len).ok_or_else(refused)?;
        let start = if mapped(layout.size()) {
            map(layout.size()).ok_or_else(refused)?
        } else {
            // SAFETY: the layout's size isn't 0 (checked above).
            let start = unsafe { alloc_zeroed(layout) };
            NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout))
        };
        Ok(Self {
            start: start.cast(),
            len,
            owner: None,
            counted: None,
        })
    }

    /// As [`Aligned::zeroed`], in memory of `owner` where there is one.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when there is no such memory.
    pub fn zeroed_in(owner: Option<&Arc<dyn StateMemory>>, len: usize) -> Result<Self> {
        let Some(owner) = owner.filter(|_| len > 0 && size_of::<T>() > 0) else {
            return Self::zeroed(len);
        };
        let bytes = len.checked_mul(size_of::<T>());
        match bytes.and_then(|bytes| owner.take(bytes)) {
            Some(start) => Ok(Self {
                start: start.cast(),
                len,
                owner: Some(Arc::clone(owner)),
                counted: None,
            }),
            None => Err(ComputeError::Device {
                what: format!("no room for {len} elements of state in the memory reserved for it"),
            }),
        }
    }

    /// The same, counted as handed out until it is dropped.
    pub(super) fn counted(mut self, tally: &Arc<Tally>) -> Self {
        self.counted = Some(tally.count(self.len * size_of::<T>()));
        self
    }
}

fn layout<T>(len: usize) -> Option<Layout> {
    let bytes = len.checked_mul(size_of::<T>())?;
    let align = if bytes < PAGE { LINE } else { PAGE };
    Layout::from_size_align(bytes, align.max(align_of::<T>())).ok()
}

fn mapped(bytes: usize) -> bool {
    cfg!(target_os = "linux") && bytes >= LARGE
}

#[cfg(target_os = "linux")]
fn map(bytes: usize) -> Option<NonNull<u8>> {
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a fresh anonymous mapping, which nobody else knows; the advice can't change its content.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0);
        if start == libc::MAP_FAILED {
            return None;
        }
        libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
        NonNull::new(start.cast())
    }
}

#[cfg(not(target_os = "linux"))]
fn map(_bytes: usize) -> Option<NonNull<u8>> {
    None
}

impl<T> Drop for Aligned<T> {
    fn drop(&mut self) {
        let own = self.len > 0 && self.owner.is_none();
        let Some(layout) = layout::<T>(self.len).filter(|_| own) else {
            return;
        };
        #[cfg(target_os = "linux")]
        if mapped(layout.size()) {
            // SAFETY: mapped in `zeroed` with the same size; nobody refers to it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), layout.size()) };
            return;
        }
        // SAFETY: the memory was allocated in `zeroed` with the same layout.
        unsafe { dealloc(self.start.as_ptr().cast(), layout) };
    }
}

impl<T: Pod> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` points to `len` initialised (zeroed, plain) values that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
