//! The shape of a LLaMA-family model and the flat layout of its layers.
//!
//! A layer's tensors lie one after another in one flat buffer, in the order of [`ModelConfig::layout`]. Weights,
//! gradients and both Adam moments use the same layout, so that every mechanism works on ranges of flat buffers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The model section of a job file, with Hugging Face's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the SwiGLU feed-forward part.
    pub intermediate_size: u32,
    /// Number of transformer blocks.
    pub num_hidden_layers: u32,
    /// Query heads.
    pub num_attention_heads: u32,
    /// Key and value heads (grouped-query attention); divides `num_attention_heads`.
    pub num_key_value_heads: u32,
    /// Width of a head; even, as rotary embedding turns pairs.
    pub head_dim: u32,
    /// Number of token ids.
    pub vocab_size: u32,
    /// Longest sequence the model may see.
    pub max_position_embeddings: u32,
    /// Added to the mean square inside RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding's frequencies.
    pub rope_theta: f64,
    /// Whether the output matrix is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
}

/// Why a model shape is impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model.{key}: {why}")]
pub struct ModelConfigError {
    /// The key at fault.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub why: String,
}

/// The unit of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LayerId {
    /// The embedding matrix.
    Embed,
    /// One transformer block.
    Block(u32),
    /// The final norm and, unless tied, the output matrix.
    Head,
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embed => f.write_str("embed"),
            Self::Block(n) => write!(f, "block.{n}"),
            Self::Head => f.write_str("head"),
        }
    }
}

/// Which of its layers a stage takes a micro-batch through at once. Swapped micro-batches visit a stage at an end of
/// the pipeline twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// All.
    Whole,
    /// The embedding alone.
    Embed,
    /// The blocks alone.
    Blocks,
    /// The head alone.
    Head,
}

impl Part {
    /// Whether a layer of the stage is in it.
    #[must_use]
    pub fn has(self, layer: LayerId) -> bool {
        match self {
            Self::Whole => true,
            Self::Embed => layer == LayerId::Embed,
            Self::Blocks => matches!(layer, LayerId::Block(_)),
            Self::Head => layer == LayerId::Head,
        }
    }
}

/// One tensor inside a layer's flat buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Full Hugging Face name, for instance `model.layers.3.self_attn.q_proj.weight`.
    pub name: String,
    /// Row-major shape: `[out, in]` for matrices, `[n]` for norms.
    pub shape: Vec<usize>,
    /// First element inside the layer's flat buffer.
    pub offset: usize,
}

impl TensorSpec {
    /// Number of elements.
    #[must_use]
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements this tensor takes in its layer's flat buffer.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.numel()
    }

    /// Whether weight decay applies (matrices, not norms).
    #[must_use]
    pub fn is_matrix(&self) -> bool {
        self.shape.len() == 2
    }
}

/// All tensors of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerLayout {
    /// Which layer.
    pub layer: LayerId,
    /// Its tensors, in buffer order, without gaps.
    pub tensors: Vec<TensorSpec>,
}

impl LayerLayout {
    fn new(layer: LayerId, tensors: Vec<(String, Vec<usize>)>) -> Self {
        let mut offset = 0;
        let tensors = tensors
            .into_iter()
            .map(|(name, shape)| {
                let spec = TensorSpec { name, shape, offset };
                offset += spec.numel();
                spec
            })
            .collect();
        Self { layer, tensors }
    }

    /// Number of elements of the flat buffer.
    #[must_use]
    pub fn numel(&self) -> usize {
        self.tensors.last().map_or(0, |t| t.offset + t.numel())
    }

    /// The tensor whose Hugging Face name ends with `suffix`.
    #[must_use]
    pub fn tensor(&self, suffix: &str) -> Option<&TensorSpec> {
        self.tensors.iter().find(|t| t.name.ends_with(suffix))
    }
}

/// Transformer blocks at most.
const MOST_BLOCKS: u32 = 1 << 16;
/// Parameters at most: a thousand times what anybody trains, and a thousandth of what would be too many to count
/// bytes of.
const MOST_PARAMETERS: u64 = 1 << 44;

impl ModelConfig {
    /// Width of all query heads together.
    #[must_use]
    pub fn query_size(&self) -> usize {
        (self.num_attention_heads * self.head_dim) as usize
    }

    /// Width of all key (or value) heads together.
    #[must_use]
    pub fn key_value_size(&self) -> usize {
        (self.num_key_value_heads * self.head_dim) as usize
    }

    /// Every layer in pipeline order: embedding, blocks, head.
    pub fn layers(&self) -> impl Iterator<Item = LayerId> + use<> {
        let blocks = self.num_hidden_layers;
        std::iter::once(LayerId::Embed)
            .chain((0..blocks).map(LayerId::Block))
            .chain(std::iter::once(LayerId::Head))
    }

    /// The flat layout of `layer`. A tied head holds the final norm only; its matrix is the embedding's.
    #[must_use]
    pub fn layout(&self, layer: LayerId) -> LayerLayout {
        let hidden = self.hidden_size as usize;
        let inter = self.intermediate_size as usize;
        let (query, kv) = (self.query_size(), self.key_value_size());
        let vocab = self.vocab_size as usize;
        let tensors = match layer {
            LayerId::Embed => vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])],
            LayerId::Block(n) => {
                let name = |part: &str| format!("model.layers.{n}.{part}.weight");
                vec![
                    (name("input_layernorm"), vec![hidden]),
                    (name("self_attn.q_proj"), vec![query, hidden]),
                    (name("self_attn.k_proj"), vec![kv, hidden]),
                    (name("self_attn.v_proj"), vec![kv, hidden]),
                    (name("self_attn.o_proj"), vec![hidden, query]),
                    (name("post_attention_layernorm"), vec![hidden]),
                    (name("mlp.gate_proj"), vec![inter, hidden]),
                    (name("mlp.up_proj"), vec![inter, hidden]),
                    (name("mlp.down_proj"), vec![hidden, inter]),
                ]
            }
            LayerId::Head => {
                let mut tensors = vec![("model.norm.weight".to_owned(), vec![hidden])];
                if !self.tie_word_embeddings {
                    tensors.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
                }
                tensors
            }
        };
        LayerLayout::new(layer, tensors)
    }

    /// Number of trained parameters, a tied matrix counted once.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.layers().map(|layer| self.layout(layer).numel() as u64).sum()
    }

    /// Checks the shape.
    ///
    /// # Errors
    /// [`ModelConfigError`] with the first key at fault and what to do about it.
    pub fn validate(&self) -> Result<(), ModelConfigError> {
        self.check_sizes()?;
        self.check_product()?;
        self.check_numbers()
    }

    fn check_sizes(&self) -> Result<(), ModelConfigError> {
        let fail = |key, why: String| Err(ModelConfigError { key, why });
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (key, value) in sizes {
            if value == 0 || value > 1 << 24 {
                return fail(key, format!("{value} is out of range; use 1 to 16777216"));
            }
        }
        let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv) {
            return fail(
                "num_key_value_heads",
                format!("{kv} doesn't divide num_attention_heads = {heads}; use one of its divisors"),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return fail(
                "head_dim",
                format!(
                    "{} is odd; rotary embedding turns pairs, use an even number",
                    self.head_dim
                ),
            );
        }
        Ok(())
    }

    /// Sizes that are fine one by one may not be together. What follows counts in 64 bits, bytes of all kinds of
    /// state included.
    fn check_product(&self) -> Result<(), ModelConfigError> {
        let query = u64::from(self.num_attention_heads) * u64::from(self.head_dim);
        if query > 1 << 24 {
            return Err(ModelConfigError {
                key: "head_dim",
                why: format!("{query} elements of all heads together are out of range; use 16777216 at most"),
            });
        }
        if self.num_hidden_layers > MOST_BLOCKS {
            return Err(ModelConfigError {
                key: "num_hidden_layers",
                why: format!(
                    "{} is out of range; use 1 to {MOST_BLOCKS}",
                    self.num_hidden_layers
                ),
            });
        }
        let layers = [
            (1, LayerId::Embed),
            (u64::from(self.num_hidden_layers), LayerId::Block(0)),
            (1, LayerId::Head),
        ];
        let parameters: u64 = layers
            .iter()
            .map(|(times, layer)| times.saturating_mul(self.layout(*layer).numel() as u64))
            .fold(0, u64::saturating_add);
        if parameters > MOST_PARAMETERS {
            return Err(ModelConfigError {
                key: "hidden_size",
                why: format!(
                    "the model has {parameters} parameters, {MOST_PARAMETERS} at most can be trained; make it smaller"
                ),
            });
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ModelConfigError> {
        let fail = |key, why: String| Err(ModelConfigError { key, why });
        for (key, value) in [
            ("rms_norm_eps", self.rms_norm_eps),
            ("rope_theta", self.rope_theta),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return fail(key, format!("{value} is not a positive number"));
            }
        }
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            return fail(
                "initializer_range",
                format!("{} is not a number of at least 0", self.initializer_range),
            );
        }
        Ok(())
    }
}
