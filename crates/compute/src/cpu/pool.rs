//! Fixed tasks on the device's own threads.
//!
//! How many tasks there are and what each does follows from shapes alone (CP-1); only who runs them depends on the
//! threads.

use std::marker::PhantomData;

use rayon::prelude::*;

use crate::{ComputeError, Result};

/// The threads of a device. One thread means: the caller's.
#[derive(Debug)]
pub struct Pool {
    pool: Option<rayon::ThreadPool>,
    threads: usize,
}

impl Pool {
    /// # Errors
    /// [`ComputeError::Device`] when the system gives no threads.
    pub fn new(threads: usize) -> Result<Self> {
        let threads = threads.max(1);
        if threads == 1 {
            return Ok(Self { pool: None, threads });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("compute-{n}"))
            .build()
            .map_err(|e| ComputeError::Device {
                what: format!("can't start {threads} compute threads: {e}; ask for fewer"),
            })?;
        Ok(Self {
            pool: Some(pool),
            threads,
        })
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0..tasks)`, in any order.
    pub fn each(&self, tasks: usize, task: impl Fn(usize) + Send + Sync) {
        match &self.pool {
            Some(pool) if tasks > 1 => pool.install(|| (0..tasks).into_par_iter().for_each(task)),
            _ => (0..tasks).for_each(task),
        }
    }
}

/// A slice cut into chunks of `size` (the last one shorter) for tasks that each take their own.
pub struct Chunks<'a, T> {
    start: *mut T,
    len: usize,
    size: usize,
    lives: PhantomData<&'a mut [T]>,
}

// SAFETY: chunks are disjoint and each is taken by one task (the contract of `take`), as with `chunks_mut`.
unsafe impl<T: Send> Send for Chunks<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    pub fn of(slice: &'a mut [T], size: usize) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            size: size.max(1),
            lives: PhantomData,
        }
    }

    pub fn count(&self) -> usize {
        self.len.div_ceil(self.size)
    }

    /// Chunk `index`.
    ///
    /// # Safety
    /// No two live results come from the same `index`.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn take(&self, index: usize) -> &'a mut [T] {
        let from = (index * self.size).min(self.len);
        let to = (from + self.size).min(self.len);
        // SAFETY: from..to lies inside the slice this was made of, and the caller takes each chunk once.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), to - from) }
    }
}

/// Chunk `index` of a slice that is read.
pub fn chunk<T>(slice: &[T], size: usize, index: usize) -> &[T] {
    let from = (index * size).min(slice.len());
    &slice[from..(from + size).min(slice.len())]
}
