//! Folders written and read: bits kept, parts checked, everything wrong with a folder named.

#![allow(clippy::unwrap_used)] // The lint's exception for tests doesn't reach their helper functions.

use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use rekindle_checkpoint::{CheckpointError, HfModel, check_export_folder, finish, shard_name, write_shard};
use rekindle_types::{LayerId, ModelConfig};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

fn config(tie_word_embeddings: bool) -> ModelConfig {
    ModelConfig {
        hidden_size: 12,
        intermediate_size: 20,
        num_hidden_layers: 3,
        num_attention_heads: 3,
        num_key_value_heads: 1,
        head_dim: 6,
        vocab_size: 256,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings,
        initializer_range: 0.02,
    }
}

/// Weights of all bit patterns that are numbers, infinities among them.
fn weights(config: &ModelConfig) -> Vec<(LayerId, Vec<f32>)> {
    let mut state = 1u32;
    let mut next = || loop {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = f32::from_bits(state);
        if !value.is_nan() {
            return value;
        }
    };
    config
        .layers()
        .map(|layer| (layer, (0..config.layout(layer).numel()).map(|_| next()).collect()))
        .collect()
}

fn borrow(layers: &[(LayerId, Vec<f32>)]) -> Vec<(LayerId, &[f32])> {
    layers
        .iter()
        .map(|(layer, flat)| (*layer, flat.as_slice()))
        .collect()
}

fn export(folder: &Path, cuts: &[usize], config: &ModelConfig, layers: &[(LayerId, Vec<f32>)]) {
    let parts = cuts.len() as u32 - 1;
    // Last part first: the order in which processes come doesn't matter.
    for part in (0..parts).rev() {
        let range = cuts[part as usize]..cuts[part as usize + 1];
        write_shard(folder, part, parts, &borrow(&layers[range]), config).unwrap();
    }
    finish(folder, parts, config, "bytes").unwrap();
}

fn assert_same_bits(model: &HfModel, layers: &[(LayerId, Vec<f32>)]) {
    for (layer, flat) in layers {
        let read = model.read_layer(*layer).unwrap();
        assert!(
            read.iter()
                .map(|v| v.to_bits())
                .eq(flat.iter().map(|v| v.to_bits())),
            "{layer}"
        );
    }
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn every_cut_and_tying_keeps_the_bits() {
    for (tie, cuts) in [
        (false, &[0, 5][..]),
        (true, &[0, 5]),
        (false, &[0, 1, 4, 5]),
        (true, &[0, 2, 5]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (config, folder) = (config(tie), dir.path().join("hf"));
        let layers = weights(&config);
        export(&folder, cuts, &config, &layers);
        let model = HfModel::open(&folder).unwrap();
        assert_eq!(model.config(), &config);
        assert_same_bits(&model, &layers);
        assert_eq!(
            folder.join("model.safetensors.index.json").exists(),
            cuts.len() > 2
        );
        let leftovers = std::fs::read_dir(&folder)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
        assert_eq!(leftovers.count(), 0);
    }
}

#[test]
fn an_index_says_where_everything_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(false);
    export(dir.path(), &[0, 2, 5], &config, &weights(&config));
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(dir.path().join(name)).unwrap()).unwrap()
    };
    let index = read("model.safetensors.index.json");
    assert_eq!(index["metadata"]["total_parameters"], config.parameters());
    assert_eq!(index["metadata"]["total_size"], config.parameters() * 4);
    assert_eq!(
        index["weight_map"]["model.embed_tokens.weight"],
        "model-00001-of-00002.safetensors"
    );
    assert_eq!(
        index["weight_map"]["lm_head.weight"],
        "model-00002-of-00002.safetensors"
    );
    assert_eq!(index["weight_map"].as_object().unwrap().len(), 1 + 3 * 9 + 2);
    assert_eq!(
        read("config.json")["rope_theta"],
        read("config.json")["rope_parameters"]["rope_theta"]
    );
    assert_eq!(read("config.json")["eos_token_id"], Value::Null);
    assert_eq!(read("tokenizer.json")["model"]["vocab"]["A"], 65);
    assert_eq!(
        read("tokenizer_config.json")["tokenizer_class"],
        "PreTrainedTokenizerFast"
    );
    let header = std::fs::read(dir.path().join("model-00001-of-00002.safetensors")).unwrap();
    let header = safetensors::SafeTensors::read_metadata(&header).unwrap().1;
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
}

/// A folder as another program writes it: one file a layer and type, an index, and tensors that don't matter.
fn foreign_folder(folder: &Path, config: &ModelConfig, layers: &[(LayerId, Vec<f32>)]) {
    let mut map = serde_json::Map::new();
    for (number, (layer, flat)) in layers.iter().enumerate() {
        let (dtype, bytes): (Dtype, fn(f32) -> Vec<u8>) = match number % 3 {
            0 => (Dtype::BF16, |v| bf16::from_f32(v).to_le_bytes().to_vec()),
            1 => (Dtype::F16, |v| f16::from_f32(v).to_le_bytes().to_vec()),
            _ => (Dtype::F32, |v| v.to_le_bytes().to_vec()),
        };
        let mut tensors = Vec::new();
        for spec in config.layout(*layer).tensors {
            let data: Vec<u8> = flat[spec.range()].iter().flat_map(|v| bytes(*v)).collect();
            tensors.push((spec.name, spec.shape, dtype, data));
        }
        if let LayerId::Block(n) = layer {
            tensors.push((
                format!("model.layers.{n}.self_attn.rotary_emb.inv_freq"),
                vec![1],
                Dtype::F32,
                vec![0; 4],
            ));
        }
        let file = format!("part-{number}.safetensors");
        let views: HashMap<&str, TensorView<'_>> = tensors
            .iter()
            .map(|(name, shape, dtype, data)| {
                (
                    name.as_str(),
                    TensorView::new(*dtype, shape.clone(), data).unwrap(),
                )
            })
            .collect();
        std::fs::write(folder.join(&file), safetensors::serialize(views, None).unwrap()).unwrap();
        map.extend(tensors.iter().map(|(name, ..)| (name.clone(), json!(file))));
    }
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        json!({"weight_map": map}).to_string(),
    )
    .unwrap();
    let keys = rekindle_checkpoint::config_to_json(config, None);
    std::fs::write(folder.join("config.json"), keys.to_string()).unwrap();
}

#[test]
fn sixteen_bit_weights_widen_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(true);
    let layers = weights(&config);
    foreign_folder(dir.path(), &config, &layers);
    let narrow = |number: usize, v: f32| match number % 3 {
        0 => f32::from_bits(u32::from(bf16::from_f32(v).to_bits()) << 16),
        1 => f32::from(f16::from_f32(v)),
        _ => v,
    };
    let narrowed: Vec<(LayerId, Vec<f32>)> = layers
        .iter()
        .enumerate()
        .map(|(number, (layer, flat))| (*layer, flat.iter().map(|v| narrow(number, *v)).collect()))
        .collect();
    assert_same_bits(&HfModel::open(dir.path()).unwrap(), &narrowed);
}

#[test]
fn both_places_of_the_base_frequency_open() {
    let dir = tempfile::tempdir().unwrap();
    let config = ModelConfig {
        rope_theta: 500_000.0,
        ..config(false)
    };
    export(dir.path(), &[0, 5], &config, &weights(&config));
    for gone in ["rope_theta", "rope_parameters"] {
        let saved = std::fs::read(dir.path().join("config.json")).unwrap();
        edit_json(&dir.path().join("config.json"), |keys| {
            keys.as_object_mut().unwrap().remove(gone);
        });
        assert_eq!(HfModel::open(dir.path()).unwrap().config().rope_theta, 500_000.0);
        std::fs::write(dir.path().join("config.json"), saved).unwrap();
    }
}

#[test]
fn broken_folders_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(false);
    let layers = weights(&config);
    let path = |name: &str| dir.path().join(name);
    let refused = |what: &str, breaking: &dyn Fn(), wanted: &[&str]| {
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        export(dir.path(), &[0, 2, 5], &config, &layers);
        breaking();
        let error = HfModel::open(dir.path()).unwrap_err().to_string();
        assert!(wanted.iter().all(|part| error.contains(part)), "{what}: {error}");
    };
    let index = path("model.safetensors.index.json");
    let (first, second) = (path(&shard_name(0, 2)), path(&shard_name(1, 2)));
    let cut = |file: &Path, len: u64| {
        std::fs::OpenOptions::new()
            .write(true)
            .open(file)
            .unwrap()
            .set_len(len)
            .unwrap()
    };
    let length = |file: &Path| std::fs::metadata(file).unwrap().len();
    let locate = |name: &str, file: &str| edit_json(&index, |v| v["weight_map"][name] = json!(file));
    let set = |key: &str, value: Value| edit_json(&path("config.json"), |v| v[key] = value);

    refused(
        "last byte cut",
        &|| cut(&second, length(&second) - 1),
        &["model-00002-of-00002", "not a whole"],
    );
    refused(
        "header cut",
        &|| cut(&second, 40),
        &["model-00002-of-00002", "not a whole"],
    );
    refused("empty", &|| cut(&second, 0), &["model-00002-of-00002", "empty"]);
    refused(
        "file gone",
        &|| std::fs::remove_file(&first).unwrap(),
        &["model-00001-of-00002"],
    );
    refused(
        "no config",
        &|| std::fs::remove_file(path("config.json")).unwrap(),
        &["config.json"],
    );
    refused(
        "no index",
        &|| std::fs::remove_file(&index).unwrap(),
        &["neither", "index"],
    );
    refused(
        "bad index",
        &|| std::fs::write(&index, "[]").unwrap(),
        &["index.json", "not an index"],
    );
    refused(
        "more blocks",
        &|| set("num_hidden_layers", json!(4)),
        &["model.layers.3.", "missing"],
    );
    refused(
        "fewer blocks",
        &|| set("num_hidden_layers", json!(2)),
        &["model.layers.2.", "not part"],
    );
    refused(
        "other width",
        &|| set("intermediate_size", json!(21)),
        &["mlp.gate_proj", "[20, 12]", "[21, 12]"],
    );
    let astray = || locate("lm_head.weight", &shard_name(0, 2));
    refused(
        "wrong file",
        &astray,
        &["model-00001-of-00002", "lm_head.weight", "index"],
    );
    for name in [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "C:x.safetensors",
        ".x.safetensors",
    ] {
        refused(
            name,
            &|| locate("lm_head.weight", name),
            &["index.json", "lm_head.weight", "plain"],
        );
    }
}

#[test]
fn a_tied_folder_may_carry_its_output_matrix() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(false);
    let layers = weights(&config);
    export(dir.path(), &[0, 5], &config, &layers);
    edit_json(&dir.path().join("config.json"), |v| {
        v["tie_word_embeddings"] = json!(true)
    });
    let model = HfModel::open(dir.path()).unwrap();
    assert_eq!(model.read_layer(LayerId::Head).unwrap().len(), 12);
    assert!(matches!(
        model.read_layer(LayerId::Block(3)),
        Err(CheckpointError::Layer { .. })
    ));
}

#[test]
fn other_number_types_and_foreign_tensors_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(true);
    foreign_folder(dir.path(), &config, &weights(&config));
    let file = dir.path().join("part-4.safetensors");
    let write = |name: &str, dtype: Dtype, bytes: usize| {
        let data = vec![0u8; bytes];
        let norm = vec![0u8; 48];
        let mut views = HashMap::from([(
            "model.norm.weight",
            TensorView::new(Dtype::F32, vec![12], &norm).unwrap(),
        )]);
        views.insert(name, TensorView::new(dtype, vec![12], &data).unwrap());
        std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
        edit_json(&dir.path().join("model.safetensors.index.json"), |v| {
            v["weight_map"][name] = json!("part-4.safetensors");
        });
        HfModel::open(dir.path()).unwrap_err()
    };
    let error = write("model.norm.weight", Dtype::F64, 96);
    assert!(
        matches!(&error, CheckpointError::Dtype { dtype, .. } if dtype == "F64"),
        "{error}"
    );
    let error = write("model.layers.0.self_attn.q_proj.bias", Dtype::F32, 48);
    assert!(
        matches!(&error, CheckpointError::ForeignTensor { name, .. } if name.ends_with("bias")),
        "{error}"
    );
}

#[test]
fn finishing_needs_every_part_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(false);
    let layers = weights(&config);
    let parts = borrow(&layers);
    let write =
        |part, range: std::ops::Range<usize>| write_shard(dir.path(), part, 2, &parts[range], &config);
    let finish = || finish(dir.path(), 2, &config, "bytes");
    write(0, 0..2).unwrap();
    let error = finish().unwrap_err().to_string();
    assert!(error.contains("part 2 of 2 is missing"), "{error}");
    assert!(
        !dir.path().join("config.json").exists(),
        "nothing is written before all parts are there"
    );
    write(1, 3..5).unwrap();
    assert!(
        matches!(finish(), Err(CheckpointError::MissingTensor { name, .. }) if name.starts_with("model.layers.1."))
    );
    write(1, 1..5).unwrap();
    assert!(
        finish()
            .unwrap_err()
            .to_string()
            .contains("is in model-00001-of-00002.safetensors too")
    );
    write(1, 2..5).unwrap();
    finish().unwrap();
    // Writing a part again takes the folder back to unfinished.
    write(0, 0..2).unwrap();
    assert!(matches!(
        HfModel::open(dir.path()),
        Err(CheckpointError::NoWeights { .. })
    ));
    // An export cut otherwise would leave a mixture.
    let other = write_shard(dir.path(), 0, 1, &parts, &config)
        .unwrap_err()
        .to_string();
    assert!(other.contains("another export"), "{other}");
    assert!(check_export_folder(dir.path(), 2).is_ok() && check_export_folder(dir.path(), 3).is_err());
    assert!(check_export_folder(&dir.path().join("new"), 3).is_ok());
}

#[test]
fn wrong_buffers_and_parts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(false);
    let short = vec![0.0; 5];
    let write =
        |part, layer| write_shard(dir.path(), part, 1, &[(layer, short.as_slice())], &config).unwrap_err();
    assert!(write(0, LayerId::Head).to_string().contains("5 weights"));
    assert!(write(0, LayerId::Block(3)).to_string().contains("3 blocks"));
    assert!(write(1, LayerId::Head).to_string().contains("part 1"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_tokenizer_travels_with_what_lies_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir(&from).unwrap();
    let tokenizer = json!({"added_tokens": [{"id": 7, "content": "<|endoftext|>"}], "model": {}});
    std::fs::write(from.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(
        from.join("special_tokens_map.json"),
        "{\"eos_token\":\"<|endoftext|>\"}",
    )
    .unwrap();
    let (config, folder) = (config(false), dir.path().join("hf"));
    write_shard(&folder, 0, 1, &borrow(&weights(&config)), &config).unwrap();
    finish(&folder, 1, &config, from.join("tokenizer.json").to_str().unwrap()).unwrap();
    let read =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap() };
    assert_eq!(read("tokenizer.json"), tokenizer);
    assert_eq!(read("tokenizer_config.json")["eos_token"], "<|endoftext|>");
    assert_eq!(
        (
            read("config.json")["eos_token_id"].clone(),
            read("generation_config.json")["eos_token_id"].clone()
        ),
        (json!(7), json!(7))
    );
    assert_eq!(read("special_tokens_map.json")["eos_token"], "<|endoftext|>");
    assert!(
        finish(&folder, 1, &config, "no/tokenizer.json")
            .unwrap_err()
            .to_string()
            .contains("no/tokenizer.json")
    );
}

#[test]
fn the_reference_models_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/llama-gqa");
    if !folder.is_dir() {
        eprintln!("skipped: {} is absent", folder.display());
        return;
    }
    let model = HfModel::open(&folder).unwrap();
    assert_eq!(
        (model.config().num_key_value_heads, model.config().rope_theta),
        (2, 10_000.0)
    );
    let layers: Vec<_> = model
        .config()
        .layers()
        .map(|layer| (layer, model.read_layer(layer).unwrap()))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    export(dir.path(), &[0, 2, 6], model.config(), &layers);
    assert_same_bits(&HfModel::open(dir.path()).unwrap(), &layers);
}
