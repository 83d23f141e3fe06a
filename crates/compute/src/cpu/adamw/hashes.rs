//! Hashes that an AdamW step makes of what it leaves, cut into tasks.

use crate::cpu::pool::Chunks;
use crate::cpu::sums::TASK;
use crate::{BlockHash, Float, Hashing};

/// Elements of the largest block that a step out of place copies to hash it: what three of them take fits the nearest
/// cache.
pub(super) const COPIED: usize = 1024;

/// Hashes cut into tasks.
pub(super) struct Hashes<'a> {
    /// Elements of a block; divides a task's.
    block: usize,
    hash: &'a BlockHash<'a>,
    out: [Chunks<'a, u128>; 3],
}

/// Those of a task.
pub(super) struct TaskHashes<'a> {
    /// Elements of a block.
    pub(super) block: usize,
    /// Number of its first block.
    first: usize,
    hash: &'a BlockHash<'a>,
    out: [&'a mut [u128]; 3],
}

impl<'a> Hashes<'a> {
    pub(super) fn of(hashing: Hashing<'a>) -> Self {
        let Hashing { block, hash, out } = hashing;
        let out = out.map(|out| Chunks::of(out, TASK / block));
        Self { block, hash, out }
    }

    /// # Safety
    /// As for [`Chunks::take`].
    pub(super) unsafe fn take(&self, task: usize) -> TaskHashes<'a> {
        TaskHashes {
            block: self.block,
            first: task * (TASK / self.block),
            hash: self.hash,
            // SAFETY: the caller's promise.
            out: self.out.each_ref().map(|out| unsafe { out.take(task) }),
        }
    }
}

impl TaskHashes<'_> {
    /// Hashes what was left of the task's block `n`.
    pub(super) fn fill<F: Float>(&mut self, n: usize, results: [&[F]; 3]) {
        for (kind, (out, result)) in self.out.iter_mut().zip(results).enumerate() {
            out[n] = (self.hash)(kind, self.first + n, bytemuck::cast_slice(result));
        }
    }
}
