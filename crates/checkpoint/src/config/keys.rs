//! Typed access to the keys of a JSON object, with errors that name file and key. A key that is null counts as missing.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{CheckpointError, Result};

/// The keys of one object of the file at `path`.
pub(super) struct Keys<'a> {
    pub path: &'a Path,
    pub keys: &'a Map<String, Value>,
}

impl Keys<'_> {
    /// A key that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    pub fn fail<T>(&self, why: String) -> Result<T> {
        Err(CheckpointError::Config {
            path: self.path.to_owned(),
            why,
        })
    }

    pub fn unsupported<T>(&self, key: &str, value: &Value, hint: &'static str) -> Result<T> {
        Err(CheckpointError::Unsupported {
            path: self.path.to_owned(),
            key: key.to_owned(),
            value: value.to_string(),
            hint,
        })
    }

    pub fn optional_u32(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(number) => Ok(Some(number)),
            None => self.fail(format!("{key} = {value} is no whole number below 2^32")),
        }
    }

    pub fn u32(&self, key: &str) -> Result<u32> {
        match self.optional_u32(key)? {
            Some(number) => Ok(number),
            None => self.fail(format!("{key} is missing")),
        }
    }

    pub fn f64_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key).map(|value| (value, value.as_f64())) {
            None => Ok(default),
            Some((_, Some(number))) => Ok(number),
            Some((value, None)) => self.fail(format!("{key} = {value} is no number")),
        }
    }

    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => self.fail(format!("{key} = {value} is neither true nor false")),
        }
    }
}
