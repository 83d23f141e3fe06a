//! What a device has handed out of its memory: now, and at most.
//!
//! Every buffer of a device is counted where it is made, by a value that lives as long as the memory. So the figure
//! that a plan gives can be held against what was used, on a CPU as on a GPU.
//!
//! Deliberately absent: what libraries take by themselves (packing of matrix products on a CPU; a CUDA context, code,
//! cuBLASLt's own), and token ids, and vectors of a few numbers a row or block, on a CPU. In: allocations. Out:
//! [`HandedOut`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes that a device has handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HandedOut {
    /// Now.
    pub now: u64,
    /// The most at once since the device was made.
    pub peak: u64,
}

/// The count of a device.
#[derive(Debug, Default)]
pub struct Tally {
    now: AtomicU64,
    peak: AtomicU64,
}

/// Bytes that count until this is dropped.
#[derive(Debug)]
pub struct Counted {
    tally: Arc<Tally>,
    bytes: u64,
}

impl Tally {
    /// Counts `bytes` that are handed out.
    pub fn count(self: &Arc<Self>, bytes: usize) -> Counted {
        let bytes = bytes as u64;
        let now = self.now.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(now, Relaxed);
        let tally = Arc::clone(self);
        Counted { tally, bytes }
    }

    /// What is handed out.
    pub fn handed_out(&self) -> HandedOut {
        HandedOut {
            now: self.now.load(Relaxed),
            peak: self.peak.load(Relaxed),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tally.now.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_stays_in_the_peak() {
        let tally = Arc::new(Tally::default());
        let (a, b) = (tally.count(10), tally.count(5));
        drop(a);
        let c = tally.count(1);
        assert_eq!(tally.handed_out(), HandedOut { now: 6, peak: 15 });
        drop((b, c));
        assert_eq!(tally.handed_out(), HandedOut { now: 0, peak: 15 });
    }
}
