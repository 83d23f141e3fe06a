//! CK-2: which configurations would make the same weights compute something else than this program does.

use serde_json::{Value, json};

use super::keys::Keys;
use crate::error::Result;

impl Keys<'_> {
    /// Refuses, by name, every key we can't follow.
    pub fn refuse_foreign(&self) -> Result<()> {
        self.expect(
            "model_type",
            &json!("llama"),
            "only model_type \"llama\" can be imported",
        )?;
        if self.get("model_type").is_none() {
            return self.fail("model_type is missing; only LLaMA models can be imported".to_owned());
        }
        self.expect("hidden_act", &json!("silu"), "only \"silu\" (SwiGLU) is computed")?;
        self.expect(
            "attention_bias",
            &json!(false),
            "biases are not computed; set it to false if the weights have none",
        )?;
        self.expect(
            "mlp_bias",
            &json!(false),
            "biases are not computed; set it to false if the weights have none",
        )?;
        if let Some(value) = self
            .get("attention_dropout")
            .filter(|value| value.as_f64() != Some(0.0))
        {
            return self.unsupported(
                "attention_dropout",
                value,
                "dropout is not computed; set it to 0.0",
            );
        }
        if let Some(value) = self.get("quantization_config") {
            return self.unsupported(
                "quantization_config",
                value,
                "export the model in float32, bfloat16 or float16",
            );
        }
        self.plain_rope("rope_scaling")?;
        self.plain_rope("rope_parameters")?;
        self.whole_rotation()
    }

    fn expect(&self, key: &str, wanted: &Value, hint: &'static str) -> Result<()> {
        match self.get(key) {
            Some(value) if value != wanted => self.unsupported(key, value, hint),
            _ => Ok(()),
        }
    }

    fn plain_rope(&self, key: &str) -> Result<()> {
        let keys = match self.get(key) {
            None => return Ok(()),
            Some(Value::Object(keys)) => keys,
            Some(value) => return self.fail(format!("{key} = {value} is no object")),
        };
        let inside = Keys {
            path: self.path,
            keys,
        };
        let plain = json!("default");
        for kind in ["rope_type", "type"] {
            if let Some(value) = inside.get(kind).filter(|value| **value != plain) {
                return self.unsupported(
                    &format!("{key}.{kind}"),
                    value,
                    "only unscaled rotary embedding (\"default\") is computed",
                );
            }
        }
        // A scaling without a type is one of an old version.
        if let (Some(value), None, None) = (inside.get("factor"), inside.get("rope_type"), inside.get("type"))
        {
            return self.unsupported(
                &format!("{key}.factor"),
                value,
                "only unscaled rotary embedding is computed",
            );
        }
        inside.whole_rotation()
    }

    fn whole_rotation(&self) -> Result<()> {
        match self.get("partial_rotary_factor") {
            Some(value) if value.as_f64() != Some(1.0) => self.unsupported(
                "partial_rotary_factor",
                value,
                "only a rotary embedding of whole heads is computed",
            ),
            _ => Ok(()),
        }
    }
}
