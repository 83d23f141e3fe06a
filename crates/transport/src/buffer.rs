//! Aligned byte buffers that go back to a pool when dropped.
//!
//! In: a length. Out: a [`Buffer`] of that length, aligned to 64 bytes (a cache line, and the widest vector
//! register), with initialised but arbitrary content. The pool keeps at most `retain_bytes` of free memory
//! and never blocks.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytemuck::NoUninit;

/// Alignment of every buffer, in bytes.
pub const ALIGNMENT: usize = 64;
const SMALLEST: usize = 4096;

/// One allocation, always fully initialised.
struct Block {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a block owns its memory alone, like a Box<[u8]>.
unsafe impl Send for Block {}
// SAFETY: a shared block gives out shared bytes only.
unsafe impl Sync for Block {}

impl Block {
    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGNMENT)
            .expect("capacity is checked against isize::MAX in size_class")
    }

    fn new(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: the layout isn't empty, size_class gives at least SMALLEST.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Self { start, capacity }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this same layout, dropped once.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

/// Rounds up to an eighth of the next power of two, so that a size that varies a little finds the same
/// blocks.
fn size_class(len: usize) -> usize {
    let grain = (len
        .max(1)
        .checked_next_power_of_two()
        .unwrap_or(usize::MAX / 2 + 1)
        / 8)
    .max(SMALLEST);
    let class = len.max(1).checked_next_multiple_of(grain).unwrap_or(usize::MAX);
    assert!(
        class <= isize::MAX as usize - ALIGNMENT,
        "a buffer of {len} bytes can't exist"
    );
    class
}

#[derive(Default)]
struct Free {
    blocks: BTreeMap<usize, Vec<Block>>,
    bytes: usize,
}

struct Shelf {
    free: Mutex<Free>,
    retain_bytes: usize,
}

impl Shelf {
    fn lock(&self) -> std::sync::MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, block: Block) {
        let mut free = self.lock();
        if free.bytes + block.capacity <= self.retain_bytes {
            free.bytes += block.capacity;
            free.blocks.entry(block.capacity).or_default().push(block);
        }
    }
}

/// Where buffers come from and go back to. Clones share the same memory.
#[derive(Clone)]
pub struct BufferPool(Arc<Shelf>);

impl BufferPool {
    /// A pool that keeps at most `retain_bytes` of free buffers.
    #[must_use]
    pub fn new(retain_bytes: usize) -> Self {
        Self(Arc::new(Shelf {
            free: Mutex::default(),
            retain_bytes,
        }))
    }

    /// A buffer of `len` bytes with arbitrary content.
    ///
    /// # Panics
    /// When `len` is near the size of the address space.
    #[must_use]
    pub fn take(&self, len: usize) -> Buffer {
        let class = size_class(len);
        let block = {
            let mut free = self.0.lock();
            let block = free.blocks.get_mut(&class).and_then(Vec::pop);
            if block.is_some() {
                free.bytes -= class;
            }
            block
        };
        Buffer {
            block: Some(block.unwrap_or_else(|| Block::new(class))),
            len,
            home: Arc::downgrade(&self.0),
        }
    }

    /// A buffer with the bytes of `values`.
    #[must_use]
    pub fn copy_of<T: NoUninit>(&self, values: &[T]) -> Buffer {
        let bytes = bytemuck::cast_slice::<T, u8>(values);
        let mut buffer = self.take(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Bytes of free memory the pool holds now.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.0.lock().bytes
    }
}

/// An owned, 64-byte aligned run of bytes. Dropping it gives it back to its pool.
pub struct Buffer {
    block: Option<Block>,
    len: usize,
    home: Weak<Shelf>,
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let block = self.block.as_ref().expect("present until drop");
        // SAFETY: the block is initialised, at least `len` long, and borrowed through self.
        unsafe { std::slice::from_raw_parts(block.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let block = self.block.as_mut().expect("present until drop");
        // SAFETY: as in deref, and self is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(block.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Some(block), Some(shelf)) = (self.block.take(), self.home.upgrade()) {
            shelf.give_back(block);
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let pool = BufferPool::new(1 << 20);
        for len in [0, 1, 63, 4096, 5000, 70_000] {
            let mut buffer = pool.take(len);
            assert_eq!((buffer.len(), buffer.as_ptr() as usize % ALIGNMENT), (len, 0));
            buffer.fill(7);
        }
        let address = pool.take(70_000).as_ptr() as usize;
        assert_eq!(
            pool.take(69_000).as_ptr() as usize,
            address,
            "the same size class reuses the block"
        );
    }

    #[test]
    fn the_pool_keeps_no_more_than_its_bound() {
        let pool = BufferPool::new(10_000);
        let held: Vec<_> = (0..8).map(|_| pool.take(4096)).collect();
        drop(held);
        assert_eq!(pool.free_bytes(), 8192);
        drop(pool.take(1 << 20));
        assert_eq!(pool.free_bytes(), 8192);
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let pool = BufferPool::new(1 << 20);
        let buffer = pool.copy_of(&[1_u32, 2, 3]);
        drop(pool);
        assert_eq!(bytemuck::cast_slice::<u8, u32>(&buffer), [1, 2, 3]);
    }
}
