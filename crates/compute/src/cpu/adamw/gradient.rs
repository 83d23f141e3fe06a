//! What an AdamW step takes the mean gradient from: accumulators, which it zeroes as it goes, or floats that it only
//! reads.

use bytemuck::Zeroable;

use crate::Float;
use crate::cpu::lanes::LANES;
use crate::cpu::pool::{Chunks, chunk};
use crate::cpu::stream;
use crate::cpu::sums::TASK;

/// A gradient cut into tasks.
pub(super) trait Cut: Sync {
    type Task: Gradient;

    /// # Safety
    /// As for [`Chunks::take`].
    unsafe fn take(&self, task: usize) -> Self::Task;

    fn tasks(&self) -> usize;
}

/// A task's part of one, or a part of that.
pub(super) trait Gradient: Sized {
    type Float: Float;

    fn len(&self) -> usize;

    /// The first `at` elements, and the rest.
    fn split(self, at: usize) -> (Self, Self);

    /// Elements `at..at + LANES`, each taken once.
    fn lanes(&mut self, at: usize) -> [Self::Float; LANES];

    /// Element `at`, taken once.
    fn one(&mut self, at: usize) -> Self::Float;

    /// Asks for its beginning, which will be read soon.
    fn announce(&self);
}

/// Accumulators of a task, and what makes a mean of one.
pub(super) struct Sums<'a, T, M> {
    values: &'a mut [T],
    mean: M,
}

/// Accumulators cut into tasks.
pub(super) struct SumTasks<'a, T, M> {
    values: Chunks<'a, T>,
    mean: M,
}

impl<'a, T, M> SumTasks<'a, T, M> {
    pub(super) fn of(values: &'a mut [T], mean: M) -> Self {
        Self {
            values: Chunks::of(values, TASK),
            mean,
        }
    }
}

impl<'a, F: Float, T: Zeroable + Copy + Send + Sync, M: Fn(T) -> F + Copy + Sync> Cut for SumTasks<'a, T, M> {
    type Task = Sums<'a, T, M>;

    unsafe fn take(&self, task: usize) -> Self::Task {
        Sums {
            // SAFETY: the caller's promise.
            values: unsafe { self.values.take(task) },
            mean: self.mean,
        }
    }

    fn tasks(&self) -> usize {
        self.values.count()
    }
}

impl<F: Float, T: Zeroable + Copy, M: Fn(T) -> F + Copy> Gradient for Sums<'_, T, M> {
    type Float = F;

    fn len(&self) -> usize {
        self.values.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (head, rest) = self.values.split_at_mut(at);
        let of = |values| Sums {
            values,
            mean: self.mean,
        };
        (of(head), of(rest))
    }

    #[inline(always)]
    fn lanes(&mut self, at: usize) -> [F; LANES] {
        let block = &mut self.values[at..at + LANES];
        let mut lanes = [F::ZERO; LANES];
        for l in 0..LANES {
            lanes[l] = (self.mean)(block[l]);
        }
        block.fill(T::zeroed());
        lanes
    }

    #[inline(always)]
    fn one(&mut self, at: usize) -> F {
        (self.mean)(std::mem::replace(&mut self.values[at], T::zeroed()))
    }

    fn announce(&self) {
        stream::announce_after(&self.values[..0]);
    }
}

impl<'a, F: Float> Cut for &'a [F] {
    type Task = &'a [F];

    unsafe fn take(&self, task: usize) -> Self::Task {
        chunk(self, TASK, task)
    }

    fn tasks(&self) -> usize {
        self.len().div_ceil(TASK)
    }
}

impl<F: Float> Gradient for &[F] {
    type Float = F;

    fn len(&self) -> usize {
        <[F]>::len(self)
    }

    fn split(self, at: usize) -> (Self, Self) {
        self.split_at(at)
    }

    #[inline(always)]
    fn lanes(&mut self, at: usize) -> [F; LANES] {
        let mut lanes = [F::ZERO; LANES];
        lanes.copy_from_slice(&self[at..at + LANES]);
        lanes
    }

    #[inline(always)]
    fn one(&mut self, at: usize) -> F {
        self[at]
    }

    fn announce(&self) {
        stream::announce_after(&self[..0]);
    }
}
