//! `config.json` of a LLaMA to a [`ModelConfig`] and back.
//!
//! In: JSON text as transformers 4 or 5 writes it. Out: a validated configuration; or the key that this program can't
//! follow. Missing optional keys take the defaults of transformers' `LlamaConfig`. Writing gives the keys of both
//! versions.

use std::path::Path;

use rekindle_types::ModelConfig;
use serde_json::{Map, Value};

use crate::error::{CheckpointError, Result, io};

mod keys;
mod refuse;
mod write;

use keys::Keys;
pub use write::config_to_json;

/// Largest config.json read, in bytes.
const LARGEST: u64 = 16 << 20;

/// Reads `config.json` at `path`.
///
/// # Errors
/// The file can't be read, and as [`config_from_json`].
pub fn read_config(path: &Path) -> Result<ModelConfig> {
    let bytes = std::fs::metadata(path).map_err(io(path))?.len();
    if bytes > LARGEST {
        let why = format!("{bytes} bytes are too many for a configuration");
        return Err(CheckpointError::Config {
            path: path.to_owned(),
            why,
        });
    }
    config_from_json(&std::fs::read_to_string(path).map_err(io(path))?, path)
}

/// Parses the text of a `config.json`; errors call it `path`.
///
/// # Errors
/// [`CheckpointError::Config`] for what isn't a configuration, [`CheckpointError::Unsupported`] for one we can't
/// follow exactly.
pub fn config_from_json(text: &str, path: &Path) -> Result<ModelConfig> {
    let fail = |why: String| CheckpointError::Config {
        path: path.to_owned(),
        why,
    };
    let keys: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| fail(format!("not a JSON object: {e}")))?;
    let source = Keys { path, keys: &keys };
    source.refuse_foreign()?;
    let config = source.config()?;
    config.validate().map_err(|e| fail(e.to_string()))?;
    Ok(config)
}

impl Keys<'_> {
    fn config(&self) -> Result<ModelConfig> {
        let hidden_size = self.u32("hidden_size")?;
        let num_attention_heads = self.u32("num_attention_heads")?;
        Ok(ModelConfig {
            hidden_size,
            intermediate_size: self.u32("intermediate_size")?,
            num_hidden_layers: self.u32("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: self
                .optional_u32("num_key_value_heads")?
                .unwrap_or(num_attention_heads),
            head_dim: self.head_dim(hidden_size, num_attention_heads)?,
            vocab_size: self.u32("vocab_size")?,
            max_position_embeddings: self.optional_u32("max_position_embeddings")?.unwrap_or(2048),
            rms_norm_eps: self.f64_or("rms_norm_eps", 1e-6)?,
            rope_theta: self.rope_theta()?,
            tie_word_embeddings: self.bool_or("tie_word_embeddings", false)?,
            initializer_range: self.f64_or("initializer_range", 0.02)?,
        })
    }

    fn head_dim(&self, hidden: u32, heads: u32) -> Result<u32> {
        if let Some(given) = self.optional_u32("head_dim")? {
            return Ok(given);
        }
        if heads == 0 || !hidden.is_multiple_of(heads) {
            return self.fail(format!("num_attention_heads = {heads} doesn't divide hidden_size = {hidden}, and there is no head_dim"));
        }
        Ok(hidden / heads)
    }

    /// The base frequency: inside `rope_parameters` (transformers 5) or at top level (4), 10000 where neither is.
    fn rope_theta(&self) -> Result<f64> {
        let top = self
            .get("rope_theta")
            .map(|_| self.f64_or("rope_theta", 0.0))
            .transpose()?;
        let inner = match self.get("rope_parameters") {
            Some(Value::Object(keys)) => {
                let inside = Keys {
                    path: self.path,
                    keys,
                };
                inside
                    .get("rope_theta")
                    .map(|_| inside.f64_or("rope_theta", 0.0))
                    .transpose()?
            }
            _ => None,
        };
        match (top, inner) {
            (Some(top), Some(inner)) if top != inner => self.fail(format!(
                "rope_theta = {top}, but rope_parameters.rope_theta = {inner}; keep one of them"
            )),
            (top, inner) => Ok(inner.or(top).unwrap_or(10_000.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MINIMAL: &str = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":176,"num_hidden_layers":2,
        "num_attention_heads":4,"vocab_size":256}"#;

    fn with(changes: Value) -> Result<ModelConfig> {
        let mut keys: Map<String, Value> = serde_json::from_str(MINIMAL).unwrap();
        keys.extend(changes.as_object().unwrap().clone());
        config_from_json(&Value::Object(keys).to_string(), Path::new("config.json"))
    }

    #[test]
    fn missing_keys_take_the_defaults_of_transformers() {
        let config =
            with(json!({"num_key_value_heads": null, "head_dim": null, "rope_scaling": null})).unwrap();
        assert_eq!(
            (
                config.num_key_value_heads,
                config.head_dim,
                config.max_position_embeddings
            ),
            (4, 16, 2048)
        );
        assert_eq!(
            (config.rms_norm_eps, config.rope_theta, config.initializer_range),
            (1e-6, 10_000.0, 0.02)
        );
        assert!(!config.tie_word_embeddings);
    }

    #[test]
    fn the_base_frequency_is_found_in_both_places() {
        let theta = |changes| with(changes).map(|config| config.rope_theta);
        assert_eq!(theta(json!({"rope_theta": 5e5})).unwrap(), 5e5);
        assert_eq!(
            theta(json!({"rope_parameters": {"rope_theta": 1234, "rope_type": "default"}})).unwrap(),
            1234.0
        );
        assert_eq!(
            theta(json!({"rope_theta": 7.0, "rope_parameters": {"rope_theta": 7.0}})).unwrap(),
            7.0
        );
        assert_eq!(
            theta(json!({"rope_theta": 7.0, "rope_parameters": {"rope_type": "default"}})).unwrap(),
            7.0
        );
        let error = theta(json!({"rope_theta": 7.0, "rope_parameters": {"rope_theta": 8.0}}))
            .unwrap_err()
            .to_string();
        assert!(error.contains("rope_parameters.rope_theta = 8"), "{error}");
    }

    #[test]
    fn what_we_cannot_compute_is_refused_by_name() {
        for (changes, wanted) in [
            (
                json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
                "rope_scaling.rope_type = \"llama3\"",
            ),
            (
                json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
                "rope_scaling.type",
            ),
            (json!({"rope_scaling": {"factor": 2.0}}), "rope_scaling.factor"),
            (
                json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}),
                "rope_parameters.rope_type",
            ),
            (
                json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
                "partial_rotary_factor",
            ),
            (json!({"attention_bias": true}), "attention_bias = true"),
            (json!({"mlp_bias": true}), "mlp_bias = true"),
            (json!({"attention_dropout": 0.1}), "attention_dropout = 0.1"),
            (json!({"hidden_act": "gelu"}), "hidden_act = \"gelu\""),
            (json!({"model_type": "mistral"}), "model_type = \"mistral\""),
            (json!({"model_type": null}), "model_type is missing"),
            (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
            (json!({"hidden_size": null}), "hidden_size is missing"),
            (json!({"hidden_size": -1}), "hidden_size = -1"),
            (json!({"hidden_size": 65}), "head_dim"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"tie_word_embeddings": "yes"}), "tie_word_embeddings"),
        ] {
            let error = with(changes).unwrap_err().to_string();
            assert!(
                error.starts_with("config.json: ") && error.contains(wanted),
                "{error}"
            );
        }
        assert!(config_from_json("[]", Path::new("c")).is_err());
    }

    #[test]
    fn writing_and_reading_gives_the_same() {
        for tie_word_embeddings in [false, true] {
            let config = ModelConfig {
                num_key_value_heads: 2,
                head_dim: 24,
                rms_norm_eps: 1e-5,
                rope_theta: 123_456.789,
                tie_word_embeddings,
                initializer_range: 0.013,
                ..with(json!({})).unwrap()
            };
            let text = config_to_json(&config, Some(3)).to_string();
            assert_eq!(config_from_json(&text, Path::new("c")).unwrap(), config);
        }
    }
}
