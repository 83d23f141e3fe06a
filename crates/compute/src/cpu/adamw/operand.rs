//! What an AdamW step reads and writes, cut into tasks and parts.

use std::ops::Range;

use crate::Float;
use crate::cpu::lanes::LANES;
use crate::cpu::pool::{Chunks, chunk};
use crate::cpu::stream;
use crate::cpu::sums::TASK;

/// What one of weights and moments starts from (None: from the target), and where it goes; equally long.
pub struct Operand<'a, F> {
    source: Option<&'a [F]>,
    pub(super) target: &'a mut [F],
    /// Whether the target is written past the caches: nothing of it is in them, and nobody reads it soon.
    past_caches: bool,
}

/// An operand cut into tasks.
pub(super) struct Tasks<'a, F> {
    source: Option<&'a [F]>,
    target: Chunks<'a, F>,
    past_caches: bool,
}

impl<'a, F> Tasks<'a, F> {
    /// `read_soon`: what is written is read again at once.
    pub(super) fn of(operand: Operand<'a, F>, read_soon: bool) -> Self {
        Self {
            source: operand.source,
            target: Chunks::of(operand.target, TASK),
            past_caches: operand.past_caches && !read_soon,
        }
    }

    /// # Safety
    /// As for [`Chunks::take`].
    pub(super) unsafe fn take(&self, task: usize) -> Operand<'a, F> {
        Operand {
            source: self.source.map(|source| chunk(source, TASK, task)),
            // SAFETY: the caller's promise.
            target: unsafe { self.target.take(task) },
            past_caches: self.past_caches,
        }
    }
}

impl<'a, F: Float> Operand<'a, F> {
    pub fn new(source: Option<&'a [F]>, target: &'a mut [F]) -> Self {
        Self {
            past_caches: source.is_some(),
            source,
            target,
        }
    }

    pub(super) fn part(&mut self, range: Range<usize>) -> Operand<'_, F> {
        Operand {
            source: self.source.map(|source| &source[range.clone()]),
            target: &mut self.target[range],
            past_caches: self.past_caches,
        }
    }

    /// Elements `at..at + LANES` before the step.
    #[inline(always)]
    pub(super) fn load(&self, at: usize) -> [F; LANES] {
        let from = self.source.unwrap_or(self.target);
        let mut lanes = [F::ZERO; LANES];
        lanes.copy_from_slice(&from[at..at + LANES]);
        lanes
    }

    /// Writes elements `at..at + LANES`. After the last ones of a thread call [`stream::done`].
    #[inline(always)]
    pub(super) fn store(&mut self, at: usize, lanes: [F; LANES]) {
        let Some(target) = self.target[at..].first_chunk_mut() else {
            return;
        };
        if self.past_caches {
            stream::store(target, &lanes);
        } else {
            *target = lanes;
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, at: usize) -> F {
        self.source.unwrap_or(self.target)[at]
    }
}
