//! What a layer costs: operations, parameters, activation bytes. All figures are for one token unless said otherwise.
//!
//! Operations count a multiply and an add as two, matrix products and attention scores only; the rest is memory-bound and small.

use rekindle_types::{Dtype, LayerId, ModelConfig, Recompute};

/// Bytes of a float on the wire and in memory.
pub const FLOAT_BYTES: u64 = 4;

/// Operations of the forward pass of `layer` per token at sequence length `seq_len` (causal attention: half the scores).
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

/// Bytes that one token keeps of `layer` between its forward and its backward.
#[must_use]
pub fn kept_bytes(model: &ModelConfig, layer: LayerId, recompute: Recompute, dtype: Dtype) -> u64 {
    match (layer, recompute) {
        (LayerId::Block(_), Recompute::Block) => width(dtype) * u64::from(model.hidden_size),
        _ => activation_bytes(model, layer, dtype),
    }
}

/// Bytes that one token's activations of `layer` take between its forward and its backward, when nothing is recomputed.
///
/// Block: input, query, key, value, attention output, second residual, gate and up; and log-sum-exp per head, which is never rounded. Head:
/// its input and the gradient of it. Embedding: the token id.
#[must_use]
pub fn activation_bytes(model: &ModelConfig, layer: LayerId, dtype: Dtype) -> u64 {
    let hidden = u64::from(model.hidden_size);
    match layer {
        LayerId::Embed => FLOAT_BYTES,
        LayerId::Head => width(dtype) * 2 * hidden,
        LayerId::Block(_) => {
            let (query, kv) = (model.query_size() as u64, model.key_value_size() as u64);
            let numbers = 2 * hidden + 2 * query + 2 * kv + 2 * u64::from(model.intermediate_size);
            width(dtype) * numbers + FLOAT_BYTES * u64::from(model.num_attention_heads)
        }
    }
}

/// Bytes of a weight in memory: single precision, and beside it what products read where that is rounded.
#[must_use]
pub fn weight_bytes(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::F32 => FLOAT_BYTES,
        Dtype::Bf16 => FLOAT_BYTES + width(dtype),
    }
}

/// Bytes of an activation in memory.
fn width(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::F32 => FLOAT_BYTES,
        Dtype::Bf16 => FLOAT_BYTES / 2,
    }
}
