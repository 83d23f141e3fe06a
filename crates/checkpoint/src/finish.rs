//! Putting the parts of an export together into a folder that transformers loads.
//!
//! In: a folder in which every part was written. Out: `config.json`, `generation_config.json`, the tokenizer's files,
//! and last the index that makes several parts one model. Nothing is written before all parts were found whole.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use rekindle_types::ModelConfig;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::error::{CheckpointError, Result};
use crate::export::{check_export_folder, shard_name};
use crate::import::{HfModel, INDEX};
use crate::shard::Shard;
use crate::{atomic, config, tokenizer};

/// Completes an export of `parts` files. `tokenizer` is `bytes` or the path of a tokenizer.json, as in a job file.
///
/// # Errors
/// A part that is missing or broken, a tensor that is missing, doubled or of the wrong shape, a tokenizer that can't
/// be read.
pub fn finish(folder: &Path, parts: u32, config: &ModelConfig, tokenizer: &str) -> Result<()> {
    check_export_folder(folder, parts)?;
    let map = collect(folder, parts, config)?;
    let files = tokenizer::files(tokenizer, config)?;
    for (name, content) in &files.files {
        atomic::write(&folder.join(name), |out| out.write_all(content))?;
    }
    atomic::write_json(
        &folder.join("config.json"),
        &config::config_to_json(config, files.end_of_text),
    )?;
    atomic::write_json(
        &folder.join("generation_config.json"),
        &generation_config(files.end_of_text),
    )?;
    if parts > 1 {
        atomic::write_json(&folder.join(INDEX), &index(&map, config))?;
    }
    // What was written is what will be read.
    HfModel::open(folder).map(|_| ())
}

/// Tensor to file name, complete for the model.
fn collect(folder: &Path, parts: u32, config: &ModelConfig) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    let mut expected: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for layer in config.layers() {
        expected.extend(
            config
                .layout(layer)
                .tensors
                .into_iter()
                .map(|spec| (spec.name, spec.shape)),
        );
    }
    for part in 0..parts {
        let file = shard_name(part, parts);
        let shard = open_part(&folder.join(&file), part, parts)?;
        for (name, info) in shard.tensors() {
            let path = || shard.path.clone();
            let Some(shape) = expected.get(name) else {
                return Err(CheckpointError::ForeignTensor {
                    path: path(),
                    name: name.clone(),
                });
            };
            if info.dtype != Dtype::F32 {
                return Err(CheckpointError::Dtype {
                    path: path(),
                    name: name.clone(),
                    dtype: info.dtype.to_string(),
                });
            }
            if *shape != info.shape {
                let (found, expected) = (info.shape.clone(), shape.clone());
                return Err(CheckpointError::Shape {
                    path: path(),
                    name: name.clone(),
                    found,
                    expected,
                });
            }
            if let Some(other) = map.insert(name.clone(), file.clone()) {
                let why = format!("tensor {name} is in {other} too; every layer belongs into one part");
                return Err(CheckpointError::Export { path: path(), why });
            }
        }
    }
    let hint = "no part holds it; every layer must be written by one stage";
    match expected.into_keys().find(|name| !map.contains_key(name)) {
        Some(name) => Err(CheckpointError::MissingTensor {
            path: folder.to_owned(),
            name,
            hint,
        }),
        None => Ok(map),
    }
}

fn open_part(path: &Path, part: u32, parts: u32) -> Result<Shard> {
    if !path.is_file() {
        let why = format!(
            "part {} of {parts} is missing; its stage hasn't written it",
            part + 1
        );
        return Err(CheckpointError::Export {
            path: path.to_owned(),
            why,
        });
    }
    Shard::open(path)
}

fn index(map: &BTreeMap<String, String>, config: &ModelConfig) -> Value {
    let parameters = config.parameters();
    json!({
        "metadata": {"total_parameters": parameters, "total_size": parameters * size_of::<f32>() as u64},
        "weight_map": map,
    })
}

fn generation_config(end_of_text: Option<u32>) -> Value {
    match end_of_text {
        Some(id) => json!({"_from_model_config": true, "eos_token_id": id}),
        None => json!({"_from_model_config": true}),
    }
}
