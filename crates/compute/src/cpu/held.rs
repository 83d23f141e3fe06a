//! Buffers that can be held as they are: memory shared by the buffer and by the handles on it, replaced from the
//! spares when the buffer has to be written while a handle lives.
//!
//! Invariant: memory is written through the only reference to it ([`CpuBuffer::values_mut`]), so a handle's bytes
//! can't change (CP-4).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::buffer::Aligned;
use super::spares::Spares;
use crate::{ComputeError, Float, Frozen, Result};

#[derive(Debug)]
struct Memory<T: Float> {
    values: Aligned<T>,
    spares: Arc<Spares<T>>,
    /// Whether it becomes a spare when nobody holds it any more.
    spare_next: AtomicBool,
}

impl<T: Float> Drop for Memory<T> {
    fn drop(&mut self) {
        if *self.spare_next.get_mut() {
            self.spares
                .give(std::mem::replace(&mut self.values, Aligned::empty()));
        }
    }
}

/// A buffer of the CPU device.
#[derive(Debug)]
pub struct CpuBuffer<T: Float> {
    memory: Arc<Memory<T>>,
}

impl<T: Float> CpuBuffer<T> {
    /// A buffer that may be replaced from `spares`.
    pub(super) fn new(values: Aligned<T>, spares: &Arc<Spares<T>>) -> Self {
        let memory = Memory {
            values,
            spares: Arc::clone(spares),
            spare_next: AtomicBool::new(false),
        };
        Self {
            memory: Arc::new(memory),
        }
    }

    /// The elements.
    pub(super) fn values(&self) -> &[T] {
        &self.memory.values
    }

    /// The elements, to be written.
    pub(super) fn values_mut(&mut self, op: &'static str) -> Result<&mut [T]> {
        match Arc::get_mut(&mut self.memory) {
            Some(memory) => Ok(&mut memory.values),
            None => Err(ComputeError::Frozen { op }),
        }
    }

    fn is_frozen(&mut self) -> bool {
        Arc::get_mut(&mut self.memory).is_none()
    }

    /// Lets the buffer go on in other memory; the one it had becomes a spare when nobody holds it any more.
    fn replace(&mut self, values: Aligned<T>) -> Self {
        let next = Self::new(values, &self.memory.spares);
        self.memory.spare_next.store(true, Relaxed);
        std::mem::replace(self, next)
    }
}

/// A handle on a part of a buffer. Shares its memory.
#[derive(Debug)]
pub struct CpuFrozen<T: Float> {
    /// None only while it is dropped.
    memory: Option<Arc<Memory<T>>>,
    range: Range<usize>,
}

impl<T: Float> CpuFrozen<T> {
    /// `range` lies inside the buffer.
    pub(super) fn new(buffer: &CpuBuffer<T>, range: Range<usize>) -> Self {
        Self {
            memory: Some(Arc::clone(&buffer.memory)),
            range,
        }
    }
}

impl<T: Float> Frozen for CpuFrozen<T> {
    fn bytes(&self) -> Result<&[u8]> {
        let values = self.memory.as_ref().map_or(&[][..], |memory| &memory.values);
        Ok(bytemuck::cast_slice(
            values.get(self.range.clone()).unwrap_or_default(),
        ))
    }
}

impl<T: Float> Drop for CpuFrozen<T> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let spares = Arc::clone(&memory.spares);
            drop(memory);
            spares.notify();
        }
    }
}

/// See [`crate::Device::thaw`].
pub(super) fn thaw<T: Float, const N: usize>(
    spares: &Spares<T>,
    buffers: [&mut CpuBuffer<T>; N],
    patience: Duration,
) -> Result<[Option<CpuBuffer<T>>; N]> {
    let began = Instant::now();
    let mut buffers = buffers;
    let mut shelf = spares.lock();
    loop {
        let frozen = buffers
            .each_mut()
            .map(|buffer| buffer.is_frozen().then(|| buffer.values().len()));
        if let Some(taken) = shelf.take(frozen) {
            let mut taken = taken.into_iter();
            return Ok(buffers.map(|buffer| Some(buffer.replace(taken.next()??))));
        }
        let waited = began.elapsed();
        let Some(left) = patience.checked_sub(waited).filter(|left| !left.is_zero()) else {
            let elements = frozen.into_iter().flatten().next().unwrap_or(0);
            return Err(ComputeError::StillFrozen { elements, waited });
        };
        shelf = spares.wait(shelf, left);
    }
}
