//! AdamW, element by element, so shard borders and threads can't show, nor whether it runs in place or from other memory.

use super::lanes::{LANES, vectorized};
use super::pool::{Chunks, Pool, chunk};
use super::stream;
use super::sums::{CpuSums, TASK, mean_of};
use crate::{AdamStep, Float};

/// The step's factors, rounded once.
#[derive(Clone, Copy)]
pub struct Factors<F> {
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
    pub fn new(step: &AdamStep) -> Self {
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
            keep: F::of(1.0 - step.lr * step.weight_decay),
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
    pub fn apply(&self, mean: F, weight: &mut F, exp_avg: &mut F, exp_avg_sq: &mut F) {
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

/// # Safety
/// As for [`Chunks::take`].
unsafe fn take<'a, F>(operands: &[Tasks<'a, F>; 3], task: usize) -> [Operand<'a, F>; 3] {
    // SAFETY: the caller's promise.
    operands.each_ref().map(|operand| unsafe { operand.take(task) })
}

impl<F: Float> Operand<'_, F> {
    /// Elements `at..at + LANES` before the step.
    #[inline(always)]
    fn load(&self, at: usize) -> [F; LANES] {
        let from = self.source.unwrap_or(self.target);
        let mut lanes = [F::ZERO; LANES];
        lanes.copy_from_slice(&from[at..at + LANES]);
        lanes
    }

    /// Writes elements `at..at + LANES`; past the caches where they weren't just read from there.
    #[inline(always)]
    fn store(&mut self, at: usize, lanes: [F; LANES]) {
        let Some(target) = self.target[at..].first_chunk_mut() else {
            return;
        };
        match self.source {
            Some(_) => stream::store(target, &lanes),
            None => *target = lanes,
        }
    }

    #[inline(always)]
    fn get(&self, at: usize) -> F {
        self.source.unwrap_or(self.target)[at]
    }
}

/// The AdamW step on weights, first and second moments; zeroes the accumulators `at..`.
pub fn update<F: Float>(
    pool: &Pool,
    operands: [Operand<'_, F>; 3],
    sums: &mut CpuSums<F>,
    at: usize,
    step: &AdamStep,
) {
    let (mean, factors) = (mean_of(sums, step.tokens), Factors::<F>::new(step));
    let len = operands[0].target.len();
    let operands = operands.map(Tasks::of);
    match sums {
        CpuSums::Fixed { values, .. } => {
            let values = Chunks::of(&mut values[at..at + len], TASK);
            pool.each(values.count(), |task| {
                // SAFETY: each task takes the chunks of its own number.
                let (operands, sums) = unsafe { (take(&operands, task), values.take(task)) };
                step_chunk(
                    factors,
                    operands,
                    sums,
                    0,
                    #[inline(always)]
                    |sum| mean.of_fixed(sum),
                );
            });
        }
        CpuSums::Float(values) => {
            let values = Chunks::of(&mut values[at..at + len], TASK);
            pool.each(values.count(), |task| {
                // SAFETY: as above.
                let (operands, sums) = unsafe { (take(&operands, task), values.take(task)) };
                step_chunk(
                    factors,
                    operands,
                    sums,
                    F::ZERO,
                    #[inline(always)]
                    |sum| mean.of_float(sum),
                );
            });
        }
    }
}

/// One task. Lanes are loaded, computed and stored whole, so one loop serves both ways to run without hindering vector code.
fn step_chunk<F: Float, T: Copy>(
    factors: Factors<F>,
    [mut weights, mut exp_avg, mut exp_avg_sq]: [Operand<'_, F>; 3],
    sums: &mut [T],
    zero: T,
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
                weights.store(at, w);
                exp_avg.store(at, m);
                exp_avg_sq.store(at, v);
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
