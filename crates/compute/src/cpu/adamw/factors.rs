//! The numbers of an AdamW step, and what it does with one element.

use crate::{AdamStep, Float};

/// The step's factors, rounded once.
#[derive(Clone, Copy)]
pub(crate) struct Factors<F> {
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
    pub(crate) fn new(step: &AdamStep, weight_decay: f64) -> Self {
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

    /// In the order that kernels declare.
    pub(crate) fn all(&self) -> [F; 10] {
        let Self {
            keep,
            lr,
            beta1,
            rest1,
            ..
        } = *self;
        let Self {
            beta2,
            rest2,
            correct1,
            correct2,
            eps,
            clip,
            ..
        } = *self;
        [
            keep, lr, beta1, rest1, beta2, rest2, correct1, correct2, eps, clip,
        ]
    }

    /// The moments of one element; `mean` is the mean gradient before clipping.
    #[inline(always)]
    pub(super) fn moments(&self, mean: F, exp_avg: &mut F, exp_avg_sq: &mut F) {
        let g = mean * self.clip;
        *exp_avg = self.beta1 * *exp_avg + self.rest1 * g;
        *exp_avg_sq = self.beta2 * *exp_avg_sq + self.rest2 * (g * g);
    }

    /// One element.
    #[inline(always)]
    pub(super) fn apply(&self, mean: F, weight: &mut F, exp_avg: &mut F, exp_avg_sq: &mut F) {
        self.moments(mean, exp_avg, exp_avg_sq);
        let (m, v) = (*exp_avg, *exp_avg_sq);
        let step = self.lr * (m * self.correct1) / ((v * self.correct2).sqrt() + self.eps);
        *weight = *weight * self.keep - step;
    }
}
