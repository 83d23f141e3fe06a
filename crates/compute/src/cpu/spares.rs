//! Spare memory for updates out of place: reserved once, handed out by exact length, given back by whoever drops
//! memory last.
//!
//! A buffer that takes a spare leaves its old memory to the handles that hold it; when they are gone that memory
//! becomes a spare of the same length. So there are always as many pieces of each length as were reserved, on the
//! shelf or on the way, and nothing is allocated after [`Spares::reserve`].

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::buffer::Aligned;
use super::memory::StateMemory;
use crate::tally::Tally;
use crate::{Float, Result};

/// Bytes between two touches that reach every page.
const PAGE: usize = 4096;

/// The spares of a device.
#[derive(Debug)]
pub struct Spares<T> {
    /// Where they come from, where that isn't the system.
    memory: Option<Arc<dyn StateMemory>>,
    tally: Arc<Tally>,
    shelf: Mutex<Shelf<T>>,
    /// Notified when memory comes back and when a handle is dropped.
    changed: Condvar,
}

/// Spares of one length.
#[derive(Debug)]
struct Pile<T> {
    free: Vec<Aligned<T>>,
    reserved: usize,
}

/// What lies ready, by length.
#[derive(Debug)]
pub struct Shelf<T>(BTreeMap<usize, Pile<T>>);

impl<T: Float> Spares<T> {
    /// None yet; they are to come from `memory`, and are counted.
    pub fn new(memory: Option<Arc<dyn StateMemory>>, tally: Arc<Tally>) -> Self {
        Self {
            memory,
            tally,
            shelf: Mutex::new(Shelf(BTreeMap::new())),
            changed: Condvar::new(),
        }
    }

    /// Memory for state, zeroed.
    ///
    /// # Errors
    /// [`crate::ComputeError::Device`] when there is none.
    pub fn state(&self, len: usize) -> Result<Aligned<T>> {
        Ok(Aligned::zeroed_in(self.memory.as_ref(), len)?.counted(&self.tally))
    }

    /// Adds one spare of each of these lengths, every page touched.
    ///
    /// # Errors
    /// [`crate::ComputeError::Device`] when the system gives no memory.
    pub fn reserve(&self, lens: &[usize]) -> Result<()> {
        for &len in lens.iter().filter(|len| **len > 0) {
            let mut memory = self.state(len)?;
            let step = (PAGE / size_of::<T>().max(1)).max(1);
            // Zeroes again: a write is what makes the system provide the page.
            (0..len)
                .step_by(step)
                .for_each(|i| std::hint::black_box(&mut memory)[i] = T::ZERO);
            let mut shelf = self.lock();
            let pile = shelf.0.entry(len).or_insert(Pile {
                free: Vec::new(),
                reserved: 0,
            });
            pile.free.push(memory);
            pile.reserved += 1;
        }
        Ok(())
    }

    /// Takes memory back; what nobody reserved is freed.
    pub fn give(&self, memory: Aligned<T>) {
        let mut shelf = self.lock();
        if let Some(pile) = shelf.0.get_mut(&memory.len())
            && pile.free.len() < pile.reserved
        {
            pile.free.push(memory);
        }
        drop(shelf);
        self.changed.notify_all();
    }

    /// Wakes those who wait for a handle to be dropped. Call it after the drop.
    pub fn notify(&self) {
        // Who waits has looked at the handles while holding this lock: a drop before that was seen, one after it wakes.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// The shelf, for one look or one taking.
    pub fn lock(&self) -> MutexGuard<'_, Shelf<T>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the lock up until something changed, for at most `left`.
    pub fn wait<'a>(&'a self, shelf: MutexGuard<'a, Shelf<T>>, left: Duration) -> MutexGuard<'a, Shelf<T>> {
        let waited = self.changed.wait_timeout(shelf, left);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl<T> Shelf<T> {
    /// A spare of each length that isn't None, or nothing at all.
    pub fn take<const N: usize>(&mut self, lens: [Option<usize>; N]) -> Option<[Option<Aligned<T>>; N]> {
        let missing = |len: &usize| {
            let wanted = lens.iter().filter(|l| **l == Some(*len)).count();
            self.0.get(len).map_or(0, |pile| pile.free.len()) < wanted
        };
        if lens.iter().flatten().any(missing) {
            return None;
        }
        Some(lens.map(|len| self.0.get_mut(&len?).and_then(|pile| pile.free.pop())))
    }
}
