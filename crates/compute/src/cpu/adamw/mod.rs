//! AdamW, element by element, so shard borders and threads can't show, nor whether it runs in place or from other memory.
//!
//! Goes through memory once: tasks of a fixed size, in them blocks where those are hashed, in them parts that decay alike. A block is hashed
//! while it is in the nearest cache; what goes past the caches, because it is written out of place, leaves a copy there for that. Memory has
//! nothing to do meanwhile, so the beginning of what comes next is asked for first.

mod factors;
mod hashes;
mod operand;

use bytemuck::Zeroable;

use super::lanes::{LANES, vectorized};
use super::pool::{Chunks, Pool};
use super::stream;
use super::sums::{CpuSums, Mean, TASK, mean_of};
use crate::{AdamPart, AdamStep, Float, Hashing};
pub(crate) use factors::Factors;
use hashes::{COPIED, Hashes, TaskHashes};
pub use operand::Operand;
use operand::Tasks;

/// An AdamW step's numbers, rounded once for each part.
pub struct Step<F> {
    mean: Mean,
    /// Where each part ends, and its factors.
    parts: Vec<(usize, Factors<F>)>,
}

impl<F: Float> Step<F> {
    pub fn new(step: &AdamStep, parts: &[AdamPart], sums: &CpuSums<F>) -> Self {
        let factors = |part: &AdamPart| (part.end, Factors::new(step, part.weight_decay));
        Self {
            mean: mean_of(sums, step.tokens),
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
        let mean = self.mean;
        match sums {
            CpuSums::Fixed { values, .. } => self.tasks(
                pool,
                operands,
                &mut values[at..at + len],
                hashing,
                #[inline(always)]
                |sum| mean.of_fixed(sum),
            ),
            CpuSums::Float(values) => self.tasks(
                pool,
                operands,
                &mut values[at..at + len],
                hashing,
                #[inline(always)]
                |sum| mean.of_float(sum),
            ),
        }
    }

    fn tasks<T: Zeroable + Copy + Send + Sync>(
        &self,
        pool: &Pool,
        operands: [Operand<'_, F>; 3],
        sums: &mut [T],
        hashing: Option<Hashing<'_>>,
        mean: impl Fn(T) -> F + Copy + Send + Sync,
    ) {
        let operands = operands.map(Tasks::of);
        let (sums, hashes) = (Chunks::of(sums, TASK), hashing.map(Hashes::of));
        pool.each(sums.count(), |task| {
            // SAFETY: each task takes the chunks of its own number.
            let (operands, sums, hashes) = unsafe {
                (
                    operands.each_ref().map(|operand| operand.take(task)),
                    sums.take(task),
                    hashes.as_ref().map(|hashes| hashes.take(task)),
                )
            };
            match hashes {
                Some(hashes) => self.hashed(task * TASK, operands, sums, hashes, mean),
                None => self.piece(task * TASK, operands, sums, mean),
            }
            stream::done();
        });
    }

    /// The elements from `first` on, block by block, and hashes of what that leaves.
    fn hashed<T: Zeroable + Copy>(
        &self,
        first: usize,
        mut operands: [Operand<'_, F>; 3],
        sums: &mut [T],
        mut hashes: TaskHashes<'_>,
        mean: impl Fn(T) -> F + Copy,
    ) {
        let mut copies = [[F::ZERO; COPIED]; 3];
        let mut start = 0;
        for (n, sums) in sums.chunks_mut(hashes.block).enumerate() {
            let range = start..start + sums.len();
            let ([weights, exp_avg, exp_avg_sq], [w, m, v]) = (operands.each_mut(), &mut copies);
            let mut block = [(weights, w), (exp_avg, m), (exp_avg_sq, v)]
                .map(|(operand, copy)| operand.part(range.clone()).read_soon(copy));
            let parts = block.each_mut().map(|operand| operand.part(0..sums.len()));
            self.piece(first + start, parts, sums, mean);
            stream::announce_after(sums);
            block.iter().for_each(Operand::announce_next);
            hashes.fill(n, block.each_ref().map(Operand::left));
            start = range.end;
        }
    }

    /// The elements from `first` on, part by part.
    fn piece<T: Zeroable + Copy>(
        &self,
        first: usize,
        mut operands: [Operand<'_, F>; 3],
        sums: &mut [T],
        mean: impl Fn(T) -> F + Copy,
    ) {
        let mut start = 0;
        for (end, factors) in &self.parts {
            let end = end.saturating_sub(first).min(sums.len());
            if end > start {
                let parts = operands.each_mut().map(|operand| operand.part(start..end));
                step_chunk(*factors, parts, &mut sums[start..end], mean);
                start = end;
            }
        }
    }
}

/// A part of a task; call [`stream::done`] after the last one. Lanes are loaded, computed and stored whole, so one loop serves every way to run
/// without hindering vector code.
fn step_chunk<F: Float, T: Zeroable + Copy>(
    factors: Factors<F>,
    [mut weights, mut exp_avg, mut exp_avg_sq]: [Operand<'_, F>; 3],
    sums: &mut [T],
    mean: impl Fn(T) -> F,
) {
    vectorized(
        #[inline(always)]
        || {
            let full = sums.len() - sums.len() % LANES;
            for at in (0..full).step_by(LANES) {
                let (mut w, mut m, mut v) = (weights.load(at), exp_avg.load(at), exp_avg_sq.load(at));
                let block = &mut sums[at..at + LANES];
                for l in 0..LANES {
                    factors.apply(mean(block[l]), &mut w[l], &mut m[l], &mut v[l]);
                }
                block.fill(T::zeroed());
                weights.store(at, w);
                exp_avg.store(at, m);
                exp_avg_sq.store(at, v);
            }
            for (at, sum) in sums.iter_mut().enumerate().skip(full) {
                let (mut w, mut m, mut v) = (weights.get(at), exp_avg.get(at), exp_avg_sq.get(at));
                factors.apply(mean(*sum), &mut w, &mut m, &mut v);
                *sum = T::zeroed();
                weights.set(at, w);
                exp_avg.set(at, m);
                exp_avg_sq.set(at, v);
            }
        },
    );
}
