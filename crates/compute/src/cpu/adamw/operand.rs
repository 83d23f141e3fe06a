//! What an AdamW step reads and writes, cut into tasks, blocks and parts.

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
    /// Takes what goes past the caches, too, for who reads it at once; as long as the target.
    copy: Option<&'a mut [F]>,
}

/// An operand cut into tasks.
pub(super) struct Tasks<'a, F> {
    source: Option<&'a [F]>,
    target: Chunks<'a, F>,
    past_caches: bool,
}

impl<'a, F> Tasks<'a, F> {
    pub(super) fn of(operand: Operand<'a, F>) -> Self {
        Self {
            source: operand.source,
            target: Chunks::of(operand.target, TASK),
            past_caches: operand.past_caches,
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
            copy: None,
        }
    }
}

impl<'a, F: Float> Operand<'a, F> {
    pub fn new(source: Option<&'a [F]>, target: &'a mut [F]) -> Self {
        Self {
            past_caches: source.is_some(),
            source,
            target,
            copy: None,
        }
    }

    pub(super) fn part(&mut self, range: Range<usize>) -> Operand<'_, F> {
        Operand {
            source: self.source.map(|source| &source[range.clone()]),
            copy: self.copy.as_deref_mut().map(|copy| &mut copy[range.clone()]),
            target: &mut self.target[range],
            past_caches: self.past_caches,
        }
    }

    /// The same, such that [`Operand::left`] is in the nearest cache after the step: in `copy` where the target
    /// isn't. A target for which `copy` is too short is written through the caches.
    pub(super) fn read_soon<'b>(self, copy: &'b mut [F]) -> Operand<'b, F>
    where
        'a: 'b,
    {
        let copy = copy.get_mut(..self.target.len()).filter(|_| self.past_caches);
        Operand {
            past_caches: copy.is_some(),
            copy,
            ..self
        }
    }

    /// What the step left.
    pub(super) fn left(&self) -> &[F] {
        self.copy.as_deref().unwrap_or(self.target)
    }

    /// Asks for what will be read when this is done, if the next block follows this one.
    pub(super) fn announce_next(&self) {
        stream::announce_after(self.source.unwrap_or(self.target));
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
        if !self.past_caches {
            *target = lanes;
            return;
        }
        stream::store(target, &lanes);
        if let Some(copy) = &mut self.copy
            && let Some(copy) = copy[at..].first_chunk_mut()
        {
            *copy = lanes;
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, at: usize) -> F {
        self.source.unwrap_or(self.target)[at]
    }

    /// As [`Operand::store`], one element.
    #[inline(always)]
    pub(super) fn set(&mut self, at: usize, value: F) {
        self.target[at] = value;
        if let Some(copy) = &mut self.copy {
            copy[at] = value;
        }
    }
}
