//! AdamW, element by element, so shard borders and threads can't show, nor whether it runs in place or from other
//! memory.
//!
//! Goes through memory once: tasks of a fixed size, in them blocks where those are hashed, in them parts that decay
//! alike. A block is hashed while it is in the nearest cache; what goes past the caches, because it is written out of
//! place, leaves a copy there for that. Memory has nothing to do meanwhile, so the beginning of what comes next is
//! asked for first.

mod factors;
mod gradient;
mod hashes;
mod operand;

use super::lanes::{LANES, vectorized};
use super::pool::{Pool, chunk};
use super::stream;
use super::sums::{CpuSums, TASK, mean_of};
use crate::{AdamPart, AdamStep, Float, Hashing};
pub(crate) use factors::Factors;
use gradient::{Cut, Gradient, SumTasks};
use hashes::{COPIED, Hashes, TaskHashes};
pub use operand::Operand;
use operand::Tasks;

/// An AdamW step's numbers, rounded once for each part.
pub struct Step<F> {
    /// What sums are divided by.
    tokens: u64,
    /// Where each part ends, and its factors.
    parts: Vec<(usize, Factors<F>)>,
}

impl<F: Float> Step<F> {
    pub fn new(step: &AdamStep, parts: &[AdamPart]) -> Self {
        let factors = |part: &AdamPart| (part.end, Factors::new(step, part.weight_decay));
        Self {
            tokens: step.tokens,
            parts: parts.iter().map(factors).collect(),
        }
    }

    /// The step on weights, first and second moments, hashed where that is asked for; zeroes the accumulators `at..`.
    pub fn run(
        &self,
        pool: &Pool,
        operands: [Operand<'_, F>; 3],
        sums: &mut CpuSums<F>,
        at: usize,
        hashing: Option<Hashing<'_>>,
    ) {
        let len = operands[0].target.len();
        let mean = mean_of(sums, self.tokens);
        match sums {
            CpuSums::Fixed { values, .. } => {
                let sums = SumTasks::of(
                    &mut values[at..at + len],
                    #[inline(always)]
                    |sum| mean.of_fixed(sum),
                );
                self.tasks(pool, operands, sums, hashing);
            }
            CpuSums::Float(values) => {
                let sums = SumTasks::of(
                    &mut values[at..at + len],
                    #[inline(always)]
                    |sum| mean.of_float(sum),
                );
                self.tasks(pool, operands, sums, hashing);
            }
        }
    }

    /// The step with a mean gradient that somebody else made.
    pub fn run_with(&self, pool: &Pool, operands: [Operand<'_, F>; 3], gradient: &[F]) {
        self.tasks(pool, operands, gradient, None);
    }

    /// What [`Step::run_with`] leaves of first and second moments, which doesn't depend on the weights.
    pub fn run_moments(&self, pool: &Pool, operands: [Operand<'_, F>; 2], gradient: &[F]) {
        // Only the decay of weights differs from part to part.
        let Some((_, factors)) = self.parts.first() else {
            return;
        };
        let operands = operands.map(Tasks::of);
        pool.each(gradient.len().div_ceil(TASK), |task| {
            // SAFETY: each task takes the chunks of its own number.
            let operands = operands.each_ref().map(|operand| unsafe { operand.take(task) });
            moments_of_chunk(*factors, operands, chunk(gradient, TASK, task));
            stream::done();
        });
    }

    fn tasks<G: Cut<Task: Gradient<Float = F>>>(
        &self,
        pool: &Pool,
        operands: [Operand<'_, F>; 3],
        gradient: G,
        hashing: Option<Hashing<'_>>,
    ) {
        let operands = operands.map(Tasks::of);
        let hashes = hashing.map(Hashes::of);
        pool.each(gradient.tasks(), |task| {
            // SAFETY: each task takes the chunks of its own number.
            let (operands, gradient, hashes) = unsafe {
                (
                    operands.each_ref().map(|operand| operand.take(task)),
                    gradient.take(task),
                    hashes.as_ref().map(|hashes| hashes.take(task)),
                )
            };
            match hashes {
                Some(hashes) => self.hashed(task * TASK, operands, gradient, hashes),
                None => self.piece(task * TASK, operands, gradient),
            }
            stream::done();
        });
    }

    /// The elements from `first` on, block by block, and hashes of what that leaves.
    fn hashed<G: Gradient<Float = F>>(
        &self,
        first: usize,
        mut operands: [Operand<'_, F>; 3],
        mut gradient: G,
        mut hashes: TaskHashes<'_>,
    ) {
        let mut copies = [[F::ZERO; COPIED]; 3];
        let (len, piece) = (gradient.len(), hashes.block);
        for (n, start) in (0..len).step_by(piece).enumerate() {
            let range = start..(start + piece).min(len);
            let (here, rest) = gradient.split(range.len());
            gradient = rest;
            let ([weights, exp_avg, exp_avg_sq], [w, m, v]) = (operands.each_mut(), &mut copies);
            let mut block = [(weights, w), (exp_avg, m), (exp_avg_sq, v)]
                .map(|(operand, copy)| operand.part(range.clone()).read_soon(copy));
            let parts = block.each_mut().map(|operand| operand.part(0..range.len()));
            self.piece(first + start, parts, here);
            gradient.announce();
            block.iter().for_each(Operand::announce_next);
            hashes.fill(n, block.each_ref().map(Operand::left));
        }
    }

    /// The elements from `first` on, part by part.
    fn piece<G: Gradient<Float = F>>(
        &self,
        first: usize,
        mut operands: [Operand<'_, F>; 3],
        mut gradient: G,
    ) {
        let (len, mut start) = (gradient.len(), 0);
        for (end, factors) in &self.parts {
            let end = end.saturating_sub(first).min(len);
            if end > start {
                let (here, rest) = gradient.split(end - start);
                gradient = rest;
                let parts = operands.each_mut().map(|operand| operand.part(start..end));
                step_chunk(*factors, parts, here);
                start = end;
            }
        }
    }
}

/// A part of a task; call [`stream::done`] after the last one. Lanes are loaded, computed and stored whole, so one
/// loop serves every way to run without hindering vector code.
fn step_chunk<F: Float, G: Gradient<Float = F>>(
    factors: Factors<F>,
    [mut weights, mut exp_avg, mut exp_avg_sq]: [Operand<'_, F>; 3],
    mut gradient: G,
) {
    vectorized(
        #[inline(always)]
        || {
            let len = gradient.len();
            let full = len - len % LANES;
            for at in (0..full).step_by(LANES) {
                let (mut w, mut m, mut v) = (weights.load(at), exp_avg.load(at), exp_avg_sq.load(at));
                let means = gradient.lanes(at);
                for l in 0..LANES {
                    factors.apply(means[l], &mut w[l], &mut m[l], &mut v[l]);
                }
                weights.store(at, w);
                exp_avg.store(at, m);
                exp_avg_sq.store(at, v);
            }
            for at in full..len {
                let (mut w, mut m, mut v) = (weights.get(at), exp_avg.get(at), exp_avg_sq.get(at));
                factors.apply(gradient.one(at), &mut w, &mut m, &mut v);
                weights.set(at, w);
                exp_avg.set(at, m);
                exp_avg_sq.set(at, v);
            }
        },
    );
}

/// As [`step_chunk`], without weights.
fn moments_of_chunk<F: Float>(
    factors: Factors<F>,
    [mut exp_avg, mut exp_avg_sq]: [Operand<'_, F>; 2],
    gradient: &[F],
) {
    vectorized(
        #[inline(always)]
        || {
            let (full, rest) = gradient.as_chunks::<LANES>();
            for (n, means) in full.iter().enumerate() {
                let at = n * LANES;
                let (mut m, mut v) = (exp_avg.load(at), exp_avg_sq.load(at));
                for l in 0..LANES {
                    factors.moments(means[l], &mut m[l], &mut v[l]);
                }
                exp_avg.store(at, m);
                exp_avg_sq.store(at, v);
            }
            for (at, mean) in (full.len() * LANES..).zip(rest) {
                let (mut m, mut v) = (exp_avg.get(at), exp_avg_sq.get(at));
                factors.moments(*mean, &mut m, &mut v);
                exp_avg.set(at, m);
                exp_avg_sq.set(at, v);
            }
        },
    );
}
