//! What a layer costs: operations and parameters. All figures are for one token unless said otherwise. Memory is
//! [`mod@crate::memory`]'s.
//!
//! Operations count a multiply and an add as two, matrix products and attention scores only; the rest is memory-bound
//! and small.

use rekindle_types::{LayerId, ModelConfig, Numerics, Recompute};

/// Bytes of a gradient's element while it is summed up.
pub(crate) fn sum_bytes(numerics: Numerics) -> u64 {
    match numerics {
        Numerics::Exact => 8,
        Numerics::Fast => 4,
    }
}

/// Bytes of a float on the wire and in memory.
pub const FLOAT_BYTES: u64 = 4;

/// Operations of the forward pass of `layer` per token at sequence length `seq_len` (causal attention: half the
/// scores).
#[must_use]
pub fn forward_flops(model: &ModelConfig, layer: LayerId, seq_len: u32) -> u64 {
    let hidden = u64::from(model.hidden_size);
    match layer {
        LayerId::Embed => 0,
        LayerId::Head => 2 * hidden * u64::from(model.vocab_size),
        LayerId::Block(_) => {
            let (query, kv) = (model.query_size() as u64, model.key_value_size() as u64);
            let projections = 2 * hidden * (2 * query + 2 * kv);
            let feed_forward = 2 * 3 * hidden * u64::from(model.intermediate_size);
            let scores = 2 * 2 * query * u64::from(seq_len) / 2;
            projections + feed_forward + scores
        }
    }
}

/// Operations of forward and backward together. A backward costs two forwards (gradients of inputs and of weights).
#[must_use]
pub fn step_flops(model: &ModelConfig, layer: LayerId, seq_len: u32) -> u64 {
    3 * forward_flops(model, layer, seq_len)
}

/// Parameters of `layer`.
#[must_use]
pub fn parameters(model: &ModelConfig, layer: LayerId) -> u64 {
    model.layout(layer).numel() as u64
}

/// As [`step_flops`], with what `recompute` makes a block run again: all of its forward pass but the last product.
#[must_use]
pub fn work_flops(model: &ModelConfig, layer: LayerId, seq_len: u32, recompute: Recompute) -> u64 {
    let step = step_flops(model, layer, seq_len);
    match (layer, recompute) {
        (LayerId::Block(_), Recompute::Block) => {
            let down = 2 * u64::from(model.hidden_size) * u64::from(model.intermediate_size);
            step + forward_flops(model, layer, seq_len) - down
        }
        _ => step,
    }
}
