//! Reading a Hugging Face folder, layer by layer.
//!
//! In: a folder with `config.json` and `model.safetensors`, or `model.safetensors.index.json` and the files it names.
//! Out: flat float32 buffers in the order of `ModelConfig::layout`. Files are mapped; memory holds the layer that is
//! asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rekindle_types::{LayerId, LayerLayout, ModelConfig, TensorSpec};
use safetensors::tensor::TensorInfo;
use serde::Deserialize;

use crate::error::{CheckpointError, Result, io};
use crate::shard::Shard;
use crate::{config, dtype};

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// A folder that was opened and checked.
#[derive(Debug)]
pub struct HfModel {
    folder: PathBuf,
    config: ModelConfig,
    shards: Vec<Shard>,
    /// Which shard holds a tensor.
    places: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl HfModel {
    /// Opens `folder` and checks that every tensor of its model is there, whole, and nothing else that would matter.
    ///
    /// # Errors
    /// [`CheckpointError`], naming the file, key or tensor at fault.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = config::read_config(&folder.join("config.json"))?;
        let (shards, places) = open_shards(folder)?;
        let model = Self {
            folder: folder.to_owned(),
            config,
            shards,
            places,
        };
        model.check()?;
        Ok(model)
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights of one layer, flat, in the order of `ModelConfig::layout`.
    ///
    /// # Errors
    /// [`CheckpointError::Layer`] for a layer that the model doesn't have.
    pub fn read_layer(&self, layer: LayerId) -> Result<Vec<f32>> {
        let layout = layout_of(&self.config, layer)?;
        let mut flat = vec![0.0; layout.numel()];
        for spec in &layout.tensors {
            let (shard, info) = self.find(spec)?;
            dtype::widen(info.dtype, shard.bytes(info), &mut flat[spec.range()]);
        }
        Ok(flat)
    }

    fn check(&self) -> Result<()> {
        let mut known = BTreeSet::new();
        for layer in self.config.layers() {
            for spec in self.config.layout(layer).tensors {
                self.find(&spec)?;
                known.insert(spec.name);
            }
        }
        let foreign = self
            .places
            .iter()
            .find(|(name, _)| !known.contains(*name) && !self.is_harmless(name));
        match foreign {
            Some((name, &at)) => Err(CheckpointError::ForeignTensor {
                path: self.shards[at].path.clone(),
                name: name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Tensors that other programs write though they follow from others: the tied output matrix, frequencies of the
    /// rotary embedding.
    fn is_harmless(&self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq")
            || (name == "lm_head.weight" && self.config.tie_word_embeddings)
    }

    fn find(&self, spec: &TensorSpec) -> Result<(&Shard, &TensorInfo)> {
        let name = || spec.name.clone();
        let missing = |path: &Path, hint| CheckpointError::MissingTensor {
            path: path.to_owned(),
            name: name(),
            hint,
        };
        let hint =
            "check num_hidden_layers and tie_word_embeddings in config.json, and that the folder is complete";
        let at = self
            .places
            .get(&spec.name)
            .ok_or_else(|| missing(&self.folder, hint))?;
        let shard = &self.shards[*at];
        let info = shard.tensors().get(&spec.name);
        let info = info.ok_or_else(|| missing(&shard.path, "the index says it is in this file"))?;
        if info.shape != spec.shape {
            let (found, expected) = (info.shape.clone(), spec.shape.clone());
            return Err(CheckpointError::Shape {
                path: shard.path.clone(),
                name: name(),
                found,
                expected,
            });
        }
        if !dtype::is_readable(info.dtype) {
            return Err(CheckpointError::Dtype {
                path: shard.path.clone(),
                name: name(),
                dtype: info.dtype.to_string(),
            });
        }
        Ok((shard, info))
    }
}

/// The layout of a layer that the model has.
pub(crate) fn layout_of(config: &ModelConfig, layer: LayerId) -> Result<LayerLayout> {
    match layer {
        LayerId::Block(n) if n >= config.num_hidden_layers => {
            let why = format!("the model has {} blocks", config.num_hidden_layers);
            Err(CheckpointError::Layer {
                layer: layer.to_string(),
                why,
            })
        }
        _ => Ok(config.layout(layer)),
    }
}

fn open_shards(folder: &Path) -> Result<(Vec<Shard>, BTreeMap<String, usize>)> {
    // The order in which transformers looks.
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.is_file() {
        let shard = Shard::open(&single)?;
        let places = shard.tensors().keys().map(|name| (name.clone(), 0)).collect();
        return Ok((vec![shard], places));
    }
    if !index.is_file() {
        return Err(CheckpointError::NoWeights {
            path: folder.to_owned(),
        });
    }
    let map = read_index(&index)?;
    let files: BTreeSet<&String> = map.values().collect();
    let shards = files
        .iter()
        .map(|file| Shard::open(&folder.join(file)))
        .collect::<Result<Vec<_>>>()?;
    let numbers: BTreeMap<&String, usize> = files.into_iter().zip(0..).collect();
    let places = map
        .iter()
        .map(|(name, file)| (name.clone(), numbers[file]))
        .collect();
    Ok((shards, places))
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let fail = |why: String| CheckpointError::Index {
        path: path.to_owned(),
        why,
    };
    let text = std::fs::read(path).map_err(io(path))?;
    let index: Index =
        serde_json::from_slice(&text).map_err(|e| fail(format!("not an index of tensors: {e}")))?;
    if let Some((name, file)) = index.weight_map.iter().find(|(_, file)| !is_plain(file)) {
        return Err(fail(format!(
            "tensor {name} is said to be in {file:?}, which is no plain .safetensors file name"
        )));
    }
    Ok(index.weight_map)
}

/// CK-5: a name without folders, hidden files or drive letters.
fn is_plain(file: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    file.ends_with(".safetensors") && !file.starts_with('.') && file.chars().all(good)
}
