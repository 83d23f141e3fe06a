//! Stores, and a server that speaks S3, for the length of a test.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    unused_imports,
    reason = "not every test uses everything"
)]

mod s3;

use std::process::Command;
use std::sync::Arc;

pub use s3::*;

use rekindle_checkpoint::Location;
use rekindle_checkpoint::store::{Store, open};
use rekindle_checkpoint::testing::small_model;
use rekindle_types::ModelConfig;

/// A store in memory, empty if nobody else took the name.
pub fn memory(name: &str) -> Arc<dyn Store> {
    open(&Location::parse(&format!("memory://{name}")).unwrap()).unwrap()
}

/// A store in a folder that lives as long as the first part.
pub fn folder() -> (tempfile::TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&Location::parse(dir.path().to_str().unwrap()).unwrap()).unwrap();
    (dir, store)
}

/// A model whose checkpoints are a few dozen KiB.
pub fn tiny_model() -> ModelConfig {
    ModelConfig {
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        vocab_size: 300,
        ..small_model()
    }
}

/// Whether two lists of values are the same, NaNs and signs of zeros included.
pub fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Runs the ignored test `name` of this test program in a process of its own, with other environment variables.
pub fn run_in_child(name: &str, environment: &[(&str, String)]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name}: {text}\n{errors}"
    );
}
