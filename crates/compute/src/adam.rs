//! Numbers and operands of an AdamW step.
//!
//! A step runs over a whole layer, whose tensors decay differently ([`AdamPart`]), so that its blocks can be hashed
//! while they are in the cache ([`Hashing`]): reading them from memory once more, later, would cost several times as
//! much.
//!
//! An operand whose buffer was replaced by [`crate::Device::thaw`] is read from where its values were before
//! ([`AdamSource`]) and written to its new place; one that is written in place is read there. Which of the two it is
//! doesn't show in the result.
//!
//! Deliberately absent: the arithmetic, see [`crate::Device::adamw`].

use crate::{View, ViewMut};

/// One AdamW step's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// 1-based number of the step, for the bias correction.
    pub step: u64,
    /// Tokens the gradient sum is divided by.
    pub tokens: u64,
    /// Factor on the gradient.
    pub clip: f64,
}

/// What an AdamW step changes: equally long parts.
#[derive(Debug)]
pub struct AdamTarget<'a, B> {
    /// The weights.
    pub weights: ViewMut<'a, B>,
    /// First moment.
    pub exp_avg: ViewMut<'a, B>,
    /// Second moment.
    pub exp_avg_sq: ViewMut<'a, B>,
}

/// Where an AdamW step finds the values it starts from, operand by operand: as long as the target, or None where that
/// is the target itself.
#[derive(Debug)]
pub struct AdamSource<'a, B> {
    /// The weights.
    pub weights: Option<View<'a, B>>,
    /// First moment.
    pub exp_avg: Option<View<'a, B>>,
    /// Second moment.
    pub exp_avg_sq: Option<View<'a, B>>,
}

impl<B> Default for AdamSource<'_, B> {
    fn default() -> Self {
        Self {
            weights: None,
            exp_avg: None,
            exp_avg_sq: None,
        }
    }
}

/// Elements of an AdamW step that decay alike: from the end of the part before to `end`, counted from the step's
/// first element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamPart {
    /// One past the last element.
    pub end: usize,
    /// Decoupled weight decay (0 for norms).
    pub weight_decay: f64,
}

/// The hash of the bytes of block `n` of weights (0), first (1) or second moment (2): `hash(0..3, n, bytes)`.
pub type BlockHash<'a> = dyn Fn(usize, usize, &[u8]) -> u128 + Sync + 'a;

/// Hashes of what an AdamW step leaves, block by block, counted from the step's first element.
pub struct Hashing<'a> {
    /// Elements of a block; the last one may have fewer. A power of two up to 16,384 suits every device.
    pub block: usize,
    /// Makes one of them.
    pub hash: &'a BlockHash<'a>,
    /// Where the hashes go, in the same order; as many as there are blocks.
    pub out: [&'a mut [u128]; 3],
}
