//! AdamW, element by element, so shard borders and threads can't show, nor whether it runs in place or from other memory.

use std::ops::Range;

use super::lanes::{LANES, vectorized};
use super::pool::{Chunks, Pool, chunk};
use super::stream;
use super::sums::{CpuSums, Mean, TASK, mean_of};
use crate::{AdamPart, AdamStep, Float, Hashing};

/// The step's factors, rounded once.
#[derive(Clone, Copy)]
struct Factors<F> {
    keep: F,
    lr: F,
    beta1: F,
    rest1: F,
    beta2: F,
    rest2: F,
    correct1: F,
    correct2: F,
    eps: F,
    clip: F,
}

impl<F: Float> Factors<F> {
    fn new(step: &AdamStep, weight_decay: f64) -> Self {
        let [beta1, beta2] = step.betas;
        // A power by squaring: the same bits with every mathematics library.
        let power = |base: f64| {
            let (mut result, mut base, mut n) = (1.0f64, base, step.step);
            while n > 0 {
                if n & 1 == 1 {
                    result *= base;
                }
                base *= base;
                n >>= 1;
            }
            result
        };
        Self {
            keep: F::of(1.0 - step.lr * weight_decay),
            lr: F::of(step.lr),
            beta1: F::of(beta1),
            rest1: F::of(1.0 - beta1),
            beta2: F::of(beta2),
            rest2: F::of(1.0 - beta2),
            correct1: F::of(1.0 / (1.0 - power(beta1))),
            correct2: F::of(1.0 / (1.0 - power(beta2))),
            eps: F::of(step.eps),
            clip: F::of(step.clip),
        }
    }

    /// One element; `mean` is the mean gradient before clipping.
    #[inline(always)]
    fn apply(&self, mean: F, weight: &mut F, exp_avg: &mut F, exp_avg_sq: &mut F) {
        let g = mean * self.clip;
        let m = self.beta1 * *exp_avg + self.rest1 * g;
        let v = self.beta2 * *exp_avg_sq + self.rest2 * (g * g);
        *exp_avg = m;
        *exp_avg_sq = v;
        let step = self.lr * (m * self.correct1) / ((v * self.correct2).sqrt() + self.eps);
        *weight = *weight * self.keep - step;
    }
}

/// What one of weights and moments starts from (None: from the target), and where it goes; equally long.
pub struct Operand<'a, F> {
    pub source: Option<&'a [F]>,
    pub target: &'a mut [F],
}

/// An operand cut into tasks.
struct Tasks<'a, F> {
    source: Option<&'a [F]>,
    target: Chunks<'a, F>,
}

impl<'a, F> Tasks<'a, F> {
    fn of(operand: Operand<'a, F>) -> Self {
        Self {
            source: operand.source,
            target: Chunks::of(operand.target, TASK),
        }
    }

    /// # Safety
    /// As for [`Chunks::take`].
    unsafe fn take(&self, task: usize) -> Operand<'a, F> {
        Operand {
            source: self.source.map(|source| chunk(source, TASK, task)),
            // SAFETY: the caller's promise.
            target: unsafe { self.target.take(task) },
        }
    }
}

impl<F: Float> Operand<'_, F> {
    fn part(&mut self, range: Range<usize>) -> Operand<'_, F> {
        Operand {
            source: self.source.map(|source| &source[range.clone()]),
            target: &mut self.target[range],
        }
    }

    /// Elements `at..at + LANES` before the step.
    #[inline(always)]
    fn load(&self, at: usize) -> [F; LANES] {
        let from = self.source.unwrap_or(self.target);
        let mut lanes = [F::ZERO; LANES];
        lanes.copy_from_slice(&from[at..at + LANES]);
        lanes
    }

    /// Writes elements `at..at + LANES`; past the caches where they weren't just read from there and nobody reads them soon.
    #[inline(always)]
    fn store(&mut self, at: usize, lanes: [F; LANES], read_soon: bool) {
        let Some(target) = self.target[at..].first_chunk_mut() else {
            return;
        };
        match self.source {
            Some(_) if !read_soon => stream::store(target, &lanes),
            _ => *target = lanes,
        }
    }

    #[inline(always)]
    fn get(&self, at: usize) -> F {
        self.source.unwrap_or(self.target)[at]
    }
}

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
                0,
                #[inline(always)]
                |sum| mean.of_fixed(sum),
            ),
            CpuSums::Float(values) => self.tasks(
                pool,
                operands,
                &mut values[at..at + len],
                hashing,
                F::ZERO,
                #[inline(always)]
                |sum| mean.of_float(sum),
            ),
        }
    }

    fn tasks<T: Copy + Send + Sync>(
        &self,
        pool: &Pool,
        operands: [Operand<'_, F>; 3],
        sums: &mut [T],
        hashing: Option<Hashing<'_>>,
        zero: T,
        mean: impl Fn(T) -> F + Copy + Send + Sync,
    ) {
        let operands = operands.map(Tasks::of);
        let sums = Chunks::of(sums, TASK);
        let hashes = hashing.map(Hashes::of);
        // Hashed block by block: a block of all operands is in the nearest cache then.
        let piece = hashes.as_ref().map_or(TASK, |hashes| hashes.block);
        pool.each(sums.count(), |task| {
            // SAFETY: each task takes the chunks of its own number.
            let (mut operands, sums) = unsafe {
                let operands = operands.each_ref().map(|operand| operand.take(task));
                (operands, sums.take(task))
            };
            // SAFETY: as above.
            let mut hashes = hashes.as_ref().map(|hashes| unsafe { hashes.take(task) });
            for start in (0..sums.len()).step_by(piece) {
                let range = start..sums.len().min(start + piece);
                let mut operands = operands.each_mut().map(|operand| operand.part(range.clone()));
                let sums = &mut sums[range];
                self.piece(
                    task * TASK + start,
                    operands.each_mut(),
                    sums,
                    zero,
                    hashes.is_some(),
                    mean,
                );
                if let Some(hashes) = &mut hashes {
                    hashes.fill(start / piece, operands);
                }
            }
        });
    }

    /// The elements from `first` on.
    fn piece<T: Copy>(
        &self,
        first: usize,
        operands: [&mut Operand<'_, F>; 3],
        sums: &mut [T],
        zero: T,
        read_soon: bool,
        mean: impl Fn(T) -> F + Copy,
    ) {
        let (mut start, mut operands) = (0, operands);
        for (end, factors) in &self.parts {
            let end = end.saturating_sub(first).min(sums.len());
            if end > start {
                let parts = operands.each_mut().map(|operand| operand.part(start..end));
                step_chunk(*factors, parts, &mut sums[start..end], zero, read_soon, mean);
                start = end;
            }
        }
    }
}

/// Hashes cut into tasks.
struct Hashes<'a> {
    block: usize,
    hash: &'a (dyn Fn(usize, usize, &[u8]) -> u128 + Sync),
    out: [Chunks<'a, u128>; 3],
}

/// Those of a task.
struct TaskHashes<'a> {
    /// Number of its first block.
    first: usize,
    hash: &'a (dyn Fn(usize, usize, &[u8]) -> u128 + Sync),
    out: [&'a mut [u128]; 3],
}

impl<'a> Hashes<'a> {
    fn of(hashing: Hashing<'a>) -> Self {
        let Hashing { block, hash, out } = hashing;
        let out = out.map(|out| Chunks::of(out, TASK / block));
        Self { block, hash, out }
    }

    /// # Safety
    /// As for [`Chunks::take`].
    unsafe fn take(&self, task: usize) -> TaskHashes<'a> {
        TaskHashes {
            first: task * (TASK / self.block),
            hash: self.hash,
            // SAFETY: the caller's promise.
            out: self.out.each_ref().map(|out| unsafe { out.take(task) }),
        }
    }
}

impl TaskHashes<'_> {
    /// Hashes what was left of the task's block `n`.
    fn fill<F: Float>(&mut self, n: usize, results: [Operand<'_, F>; 3]) {
        for (kind, (out, result)) in self.out.iter_mut().zip(results).enumerate() {
            out[n] = (self.hash)(kind, self.first + n, bytemuck::cast_slice(result.target));
        }
    }
}

/// A part of a task. Lanes are loaded, computed and stored whole, so one loop serves both ways to run without hindering vector code.
fn step_chunk<F: Float, T: Copy>(
    factors: Factors<F>,
    [mut weights, mut exp_avg, mut exp_avg_sq]: [Operand<'_, F>; 3],
    sums: &mut [T],
    zero: T,
    read_soon: bool,
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
                block.fill(zero);
                weights.store(at, w, read_soon);
                exp_avg.store(at, m, read_soon);
                exp_avg_sq.store(at, v, read_soon);
            }
            for (at, sum) in sums.iter_mut().enumerate().skip(full) {
                let (mut w, mut m, mut v) = (weights.get(at), exp_avg.get(at), exp_avg_sq.get(at));
                factors.apply(mean(*sum), &mut w, &mut m, &mut v);
                *sum = zero;
                (weights.target[at], exp_avg.target[at], exp_avg_sq.target[at]) = (w, m, v);
            }
            stream::done();
        },
    );
}
