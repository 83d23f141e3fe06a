//! What a stage is made of and what it is fed.

use std::borrow::Cow;
use std::ops::Range;

use rekindle_compute::{AdamStep, AttentionShape, SumKind};
use rekindle_types::{LayerId, ModelConfig, Numerics, Recompute};

use super::EngineError;

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of matrices (norms have none).
    pub weight_decay: f64,
}

impl AdamW {
    /// What a step's update of a tensor without weight decay computes with, for gradients that are still to be
    /// divided by `tokens`.
    pub(super) fn numbers(&self, tokens: u64, (step, lr, clip): (u64, f64, f64)) -> AdamStep {
        AdamStep {
            lr,
            betas: self.betas,
            eps: self.eps,
            step,
            tokens,
            clip,
        }
    }
}

/// One stage of one lane.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSpec {
    /// The whole model's shape.
    pub model: ModelConfig,
    /// Which layers, as indices in pipeline order: 0 = embedding, 1..=n = blocks, n+1 = head.
    pub layers: Range<u32>,
    /// Sequences of a micro-batch.
    pub micro_batch: u32,
    /// Tokens of a sequence.
    pub seq_len: u32,
    /// How gradients are added.
    pub numerics: Numerics,
    /// What the backward pass computes anew.
    pub recompute: Recompute,
    /// Tokens of a whole step over all lanes: the divisor of the gradient.
    pub tokens_per_step: u64,
    /// This rank's lane, below `lanes`.
    pub lane: u32,
    /// Data-parallel copies.
    pub lanes: u32,
    /// The optimizer's constants.
    pub optimizer: AdamW,
}

impl StageSpec {
    /// Rows of a micro-batch.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.micro_batch as usize * self.seq_len as usize
    }

    /// The layers, in pipeline order.
    #[must_use]
    pub fn layer_ids(&self) -> Vec<LayerId> {
        self.model
            .layers()
            .skip(self.layers.start as usize)
            .take(self.layers.len())
            .collect()
    }

    /// Fixed point with `43 - ceil(log2(tokens))` fractional bits (so the mean has 43 and a range of ±2^20), or floats.
    #[must_use]
    pub fn sum_kind(&self) -> SumKind {
        match self.numerics {
            Numerics::Exact => {
                let log = self.tokens_per_step.max(1).next_power_of_two().trailing_zeros();
                SumKind::Fixed {
                    shift: 43u32.saturating_sub(log),
                }
            }
            Numerics::Fast => SumKind::Float,
        }
    }

    pub(super) fn attention(&self, sequences: usize, seq_len: usize) -> AttentionShape {
        let head_dim = self.model.head_dim as usize;
        AttentionShape {
            sequences,
            seq_len,
            heads: self.model.num_attention_heads as usize,
            kv_heads: self.model.num_key_value_heads as usize,
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
        }
    }

    pub(super) fn validate(&self) -> Result<(), EngineError> {
        self.model
            .validate()
            .map_err(|e| EngineError::Spec { what: e.to_string() })?;
        let fail = |what: String| Err(EngineError::Spec { what });
        let last = self.model.num_hidden_layers + 2;
        if self.layers.start >= self.layers.end || self.layers.end > last {
            return fail(format!("layers {:?} are no part of 0..{last}", self.layers));
        }
        if self.micro_batch == 0 || self.seq_len == 0 {
            return fail(format!(
                "a micro-batch of {} x {} tokens is empty",
                self.micro_batch, self.seq_len
            ));
        }
        if self.seq_len > self.model.max_position_embeddings {
            let (seq, max) = (self.seq_len, self.model.max_position_embeddings);
            return fail(format!(
                "seq_len {seq} exceeds max_position_embeddings {max}; shorten the one or raise the other"
            ));
        }
        if self.lane >= self.lanes {
            return fail(format!("lane {} of {} doesn't exist", self.lane, self.lanes));
        }
        if self.tokens_per_step == 0 || self.tokens_per_step > 1 << 43 {
            return fail(format!(
                "tokens_per_step {} is outside 1 to 2^43",
                self.tokens_per_step
            ));
        }
        Ok(())
    }
}

/// What enters a stage.
#[derive(Debug, Clone, Copy)]
pub enum StageInput<'a, F> {
    /// `micro_batch * seq_len` token ids, sequence by sequence: for the stage with the embedding.
    Tokens(&'a [u32]),
    /// `[rows, hidden]`: for every other stage.
    Activations(&'a [F]),
}

/// What leaves a stage.
#[derive(Debug, Clone)]
pub enum StageOutput<'a, F: Clone> {
    /// `[rows, hidden]`, for the next stage. Copy it before the next call.
    Activations(Cow<'a, [F]>),
    /// The head's result: the loss summed over the micro-batch's tokens.
    Loss {
        /// Sum of -log p(target).
        sum: f64,
    },
}

/// Bytes a stage holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryReport {
    /// Weights, a mirrored embedding included.
    pub weights: u64,
    /// Both moments of the owned shard.
    pub moments: u64,
    /// Gradient accumulators.
    pub gradients: u64,
    /// Activations of micro-batches in flight (and of slots kept for the next ones).
    pub activations: u64,
    /// Work space.
    pub scratch: u64,
}

impl MemoryReport {
    /// Everything.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.moments + self.gradients + self.activations + self.scratch
    }
}
