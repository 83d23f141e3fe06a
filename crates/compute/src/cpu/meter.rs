//! Where the time goes: nanoseconds, floating point operations and bytes by kind of work. One clock reading per
//! operation.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Kinds of work with different limits: products by arithmetic, the rest mostly by memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Matrix products.
    Product,
    /// Attention's scores, softmax and mixing.
    Attention,
    /// Norms, rotation, SwiGLU, loss, embedding, accumulation, optimizer.
    Other,
}

/// What was done of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Wall time of the calling thread.
    pub nanos: u64,
    /// Floating point operations of products (a fused multiply-add counts as two); 0 for [`Work::Other`].
    pub flops: u64,
    /// Bytes of operands, each counted once per read and per write.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counter {
    nanos: AtomicU64,
    flops: AtomicU64,
    bytes: AtomicU64,
}

/// Counters of a device.
#[derive(Debug, Default)]
pub struct Meter([Counter; 3]);

/// Counts until dropped.
pub struct Running<'a> {
    counter: &'a Counter,
    began: Instant,
}

impl Meter {
    /// Starts counting; what is done is given up front.
    pub fn start(&self, work: Work, flops: usize, bytes: usize) -> Running<'_> {
        let counter = &self.0[work as usize];
        counter.flops.fetch_add(flops as u64, Relaxed);
        counter.bytes.fetch_add(bytes as u64, Relaxed);
        Running {
            counter,
            began: Instant::now(),
        }
    }

    /// What was done so far.
    pub fn spent(&self, work: Work) -> Spent {
        let counter = &self.0[work as usize];
        Spent {
            nanos: counter.nanos.load(Relaxed),
            flops: counter.flops.load(Relaxed),
            bytes: counter.bytes.load(Relaxed),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.counter
            .nanos
            .fetch_add(self.began.elapsed().as_nanos() as u64, Relaxed);
    }
}
