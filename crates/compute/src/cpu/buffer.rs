//! Memory of the CPU device: zeroed, aligned to a cache line (to 2 MiB when large, so that the kernel can use huge pages).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

use bytemuck::Pod;

use crate::{ComputeError, Result, View, ViewMut};

const LINE: usize = 64;

/// A fixed-size array of plain values that starts at a cache line.
#[derive(Debug)]
pub struct Aligned<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: an `Aligned` owns its memory as a `Vec` does, and plain values may be shared and sent.
unsafe impl<T: Pod + Send> Send for Aligned<T> {}
// SAFETY: as above; there is no interior mutability.
unsafe impl<T: Pod + Sync> Sync for Aligned<T> {}

impl<T: Pod> Aligned<T> {
    /// `len` zeroes. Pages that are never touched cost no memory.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when the size is beyond the address space.
    pub fn zeroed(len: usize) -> Result<Self> {
        if len == 0 || size_of::<T>() == 0 {
            return Ok(Self {
                start: NonNull::dangling(),
                len: 0,
            });
        }
        let layout = Self::layout(len).ok_or_else(|| ComputeError::Device {
            what: format!("a buffer of {len} elements exceeds the address space; make the model or the micro-batch smaller"),
        })?;
        // SAFETY: the layout's size isn't 0 (checked above).
        let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Ok(Self { start, len })
    }

    fn layout(len: usize) -> Option<Layout> {
        let bytes = len.checked_mul(size_of::<T>())?;
        Layout::from_size_align(bytes, LINE.max(align_of::<T>())).ok()
    }
}

impl<T> Drop for Aligned<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the memory was allocated in `zeroed` with the same size and alignment.
            unsafe {
                let layout =
                    Layout::from_size_align_unchecked(self.len * size_of::<T>(), LINE.max(align_of::<T>()));
                dealloc(self.start.as_ptr().cast(), layout);
            }
        }
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

fn inside(op: &'static str, range: &Range<usize>, len: usize) -> Result<()> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    Err(ComputeError::Range {
        op,
        start: range.start,
        end: range.end,
        len,
    })
}

/// The slice of a view, checked.
pub fn read<'a, T: Pod>(op: &'static str, view: View<'a, Aligned<T>>) -> Result<&'a [T]> {
    inside(op, &view.range, view.buffer.len())?;
    Ok(&view.buffer[view.range])
}

/// The slice of a view to write, checked.
pub fn write<'a, T: Pod>(op: &'static str, view: ViewMut<'a, Aligned<T>>) -> Result<&'a mut [T]> {
    inside(op, &view.range, view.buffer.len())?;
    Ok(&mut view.buffer[view.range])
}

/// Refuses an operand of the wrong length.
pub fn expect_len(op: &'static str, what: &'static str, have: usize, want: usize) -> Result<()> {
    if have == want {
        Ok(())
    } else {
        Err(ComputeError::Shape { op, what, have, want })
    }
}
