//! Memory that tasks of the device's threads borrow, as much as threads ever wanted at once.

use std::sync::{Arc, Mutex};

use crate::Float;
use crate::tally::{Counted, Tally};

/// Scratch that tasks borrow and give back, so that no task allocates.
#[derive(Debug)]
pub struct Scratch<F> {
    free: Mutex<Vec<(Vec<F>, Option<Counted>)>>,
    tally: Arc<Tally>,
}

impl<F: Float> Scratch<F> {
    /// None yet; what is made is counted.
    pub fn new(tally: &Arc<Tally>) -> Self {
        Self {
            free: Mutex::default(),
            tally: Arc::clone(tally),
        }
    }

    /// Runs `work` on `len` elements of unspecified content.
    pub fn with<R>(&self, len: usize, work: impl FnOnce(&mut [F]) -> R) -> R {
        let (mut memory, mut counted) = self
            .free
            .lock()
            .ok()
            .and_then(|mut free| free.pop())
            .unwrap_or_default();
        if memory.len() < len {
            // The old count goes first, as a count of both would be of more than there is.
            drop(counted.take());
            counted = Some(self.tally.count(len * F::BYTES));
            memory.resize(len, F::ZERO);
        }
        let result = work(&mut memory[..len]);
        if let Ok(mut free) = self.free.lock() {
            free.push((memory, counted));
        }
        result
    }
}
