//! Writing weights as safetensors, each process its own layers.
//!
//! In: flat float32 layer buffers. Out: `model.safetensors`, or `model-00001-of-0000n.safetensors` for part 0 of n.
//! Parts of one export are written in any order and at the same time; the folder becomes loadable by
//! [`crate::finish`].

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use rekindle_types::{LayerId, ModelConfig};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{CheckpointError, Result, io};
use crate::import::{INDEX, SINGLE, layout_of};
use crate::{atomic, dtype};

/// The file name of part `part` (from 0) of `parts`.
#[must_use]
pub fn shard_name(part: u32, parts: u32) -> String {
    if parts == 1 {
        SINGLE.to_owned()
    } else {
        format!("model-{:05}-of-{parts:05}.safetensors", part + 1)
    }
}

/// Writes part `part` (from 0) of an export of `parts` files: `layers` with their flat weights. Creates `folder` when
/// it isn't there.
///
/// # Errors
/// A part outside the count, a buffer of the wrong length, weights of another export in the folder, or the file system.
pub fn write_shard(
    folder: &Path,
    part: u32,
    parts: u32,
    layers: &[(LayerId, &[f32])],
    config: &ModelConfig,
) -> Result<PathBuf> {
    if part >= parts {
        let why = format!("part {part} doesn't exist in an export of {parts} parts");
        return Err(CheckpointError::Export {
            path: folder.to_owned(),
            why,
        });
    }
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    check_export_folder(folder, parts)?;
    withdraw_index(folder)?;
    let path = folder.join(shard_name(part, parts));
    let (header, slices) = prepare(&path, layers, config)?;
    atomic::write(&path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        slices.iter().try_for_each(|slice| dtype::write_f32(slice, out))
    })?;
    Ok(path)
}

/// The header of the file, and the values that follow it.
fn prepare<'a>(
    path: &Path,
    layers: &[(LayerId, &'a [f32])],
    config: &ModelConfig,
) -> Result<(Vec<u8>, Vec<&'a [f32]>)> {
    let (mut infos, mut slices, mut offset) = (Vec::new(), Vec::new(), 0);
    for &(layer, flat) in layers {
        let layout = layout_of(config, layer)?;
        if flat.len() != layout.numel() {
            let why = format!(
                "{} weights were given, the model's layout has {}",
                flat.len(),
                layout.numel()
            );
            return Err(CheckpointError::Layer {
                layer: layer.to_string(),
                why,
            });
        }
        for spec in layout.tensors {
            let data_offsets = (offset, offset + spec.numel() * size_of::<f32>());
            offset = data_offsets.1;
            slices.push(&flat[spec.range()]);
            infos.push((
                spec.name,
                TensorInfo {
                    dtype: Dtype::F32,
                    shape: spec.shape,
                    data_offsets,
                },
            ));
        }
    }
    let fail = |why: String| CheckpointError::Export {
        path: path.to_owned(),
        why,
    };
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|e| fail(e.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| fail(e.to_string()))?;
    // Data starts at a multiple of 8, as the format asks.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok((header, slices))
}

/// While parts are being replaced, no index may call them one model.
fn withdraw_index(folder: &Path) -> Result<()> {
    let index = folder.join(INDEX);
    match std::fs::remove_file(&index) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(&index)(error)),
        _ => Ok(()),
    }
}

/// Checks that `folder` can take an export of `parts` files: weights of an export with another number of parts would
/// be loaded instead of ours, or be taken for ours. A folder that isn't there is fine. Ask before training, not
/// after.
///
/// # Errors
/// [`CheckpointError::Export`] naming the file in the way.
pub fn check_export_folder(folder: &Path, parts: u32) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let ours: Vec<String> = (0..parts).map(|part| shard_name(part, parts)).collect();
    for entry in std::fs::read_dir(folder).map_err(io(folder))? {
        let name = entry.map_err(io(folder))?.file_name();
        let name = name.to_string_lossy();
        let is_weights = name.starts_with("model") && name.ends_with(".safetensors");
        if is_weights && !ours.iter().any(|our| *our == name) {
            let why = "weights of another export are in the way; remove them or export to another folder"
                .to_owned();
            return Err(CheckpointError::Export {
                path: folder.join(&*name),
                why,
            });
        }
    }
    Ok(())
}
