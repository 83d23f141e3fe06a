//! Shapes of models to measure with.

use clap::{Args, ValueEnum};
use rekindle_types::ModelConfig;

/// Known shapes; single numbers can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// 6.4 M parameters, for CPUs
    Small,
    /// 124 M parameters, GPT-2's size
    #[value(name = "124m")]
    M124,
    /// 1.3 G parameters
    #[value(name = "1.3b")]
    B1,
}

/// The model to train.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A known shape
    #[arg(long, value_enum, default_value = "small")]
    model: Preset,
    /// Width of the residual stream
    #[arg(long, value_name = "N")]
    hidden: Option<u32>,
    /// Width inside the MLP
    #[arg(long, value_name = "N")]
    inter: Option<u32>,
    /// Blocks
    #[arg(long, value_name = "N")]
    layers: Option<u32>,
    /// Query heads
    #[arg(long, value_name = "N")]
    heads: Option<u32>,
    /// Key and value heads
    #[arg(long, value_name = "N")]
    kv_heads: Option<u32>,
    /// Tokens in the vocabulary
    #[arg(long, value_name = "N")]
    vocab: Option<u32>,
}

impl ModelArgs {
    /// The shape, for sequences of `seq` tokens.
    pub fn config(&self, seq: u32) -> ModelConfig {
        // hidden, inter, layers, heads, vocabulary, tied
        let (hidden, inter, layers, heads, vocab, tied) = match self.model {
            Preset::Small => (256, 688, 8, 8, 256, false),
            Preset::M124 => (768, 2048, 12, 12, 50_304, true),
            Preset::B1 => (2048, 5504, 24, 16, 32_000, false),
        };
        let (hidden, heads) = (self.hidden.unwrap_or(hidden), self.heads.unwrap_or(heads));
        ModelConfig {
            hidden_size: hidden,
            intermediate_size: self.inter.unwrap_or(inter),
            num_hidden_layers: self.layers.unwrap_or(layers),
            num_attention_heads: heads,
            num_key_value_heads: self.kv_heads.unwrap_or(heads),
            head_dim: hidden / heads.max(1),
            vocab_size: self.vocab.unwrap_or(vocab),
            max_position_embeddings: seq,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tie_word_embeddings: tied,
            initializer_range: 0.02,
        }
    }
}

/// Floating-point operations of a token's forward and backward pass: six for each weight that is multiplied with, and
/// the two products of causal attention (Chowdhery et al. 2022, appendix B, with half of their attention for the
/// mask).
pub fn flops_per_token(model: &ModelConfig, seq: u32) -> f64 {
    let embedding = u64::from(model.vocab_size) * u64::from(model.hidden_size);
    let multiplied = model.parameters() - if model.tie_word_embeddings { 0 } else { embedding };
    let width = u64::from(model.num_attention_heads) * u64::from(model.head_dim);
    let attention = 6 * u64::from(model.num_hidden_layers) * width * u64::from(seq);
    (6 * multiplied + attention) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset(model: Preset) -> ModelConfig {
        let args = ModelArgs {
            model,
            hidden: None,
            inter: None,
            layers: None,
            heads: None,
            kv_heads: None,
            vocab: None,
        };
        args.config(1024)
    }

    #[test]
    fn presets_have_the_sizes_that_they_are_called_by() {
        let millions = |model| preset(model).parameters() / 1_000_000;
        assert_eq!(millions(Preset::Small), 6);
        assert_eq!(millions(Preset::M124), 123);
        assert_eq!(millions(Preset::B1), 1345);
    }

    #[test]
    fn the_embedding_counts_where_it_is_multiplied_with() {
        let mut model = preset(Preset::Small);
        let untied = flops_per_token(&model, 0);
        assert_eq!(untied, 6.0 * (model.parameters() - 256 * 256) as f64);
        model.tie_word_embeddings = true;
        assert_eq!(flops_per_token(&model, 0), 6.0 * model.parameters() as f64);
        assert_eq!(
            flops_per_token(&model, 10) - flops_per_token(&model, 0),
            6.0 * 8.0 * 256.0 * 10.0
        );
    }
}
