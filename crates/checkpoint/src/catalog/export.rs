//! From a checkpoint to a folder in Hugging Face's format: the weights, without the moments.

use std::path::Path;

use rekindle_types::{LayerId, StateKind};

use crate::format::Span;
use crate::reader::{Checkpoint, Options};
use crate::state_error::Result;
use crate::{finish, write_shard};

/// Bytes of weights in a file at most, unless a single layer has more (CK-18).
const MOST_BYTES: u64 = 256 << 20;

/// Writes the weights of a checkpoint to `folder`, with `config.json` and the tokenizer's files; `tokenizer` is
/// `bytes` or a path, as in a job file. `progress` is told layers done and layers to do. Blocks, as
/// [`Checkpoint::read_ranges`] does.
///
/// # Errors
/// As [`Checkpoint::read_ranges`], [`write_shard`] and [`finish`].
pub fn export_hf(
    checkpoint: &Checkpoint,
    folder: &Path,
    tokenizer: &str,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let model = &checkpoint.manifest().model;
    let groups = groups(checkpoint);
    let parts = u32::try_from(groups.len()).unwrap_or(u32::MAX);
    let (mut done, total) = (0, model.layers().count());
    for (part, layers) in (0..).zip(&groups) {
        let numel = |layer: &LayerId| model.layout(*layer).numel();
        let mut buffers: Vec<Vec<f32>> = layers.iter().map(|layer| vec![0.0; numel(layer)]).collect();
        let mut targets: Vec<(Span, &mut [f32])> = Vec::new();
        for (layer, buffer) in layers.iter().zip(&mut buffers) {
            targets.push((
                Span::new(*layer, StateKind::Weights, 0..buffer.len() as u64),
                buffer,
            ));
        }
        checkpoint.read_into(&mut targets, &Options::default())?;
        let borrowed: Vec<(LayerId, &[f32])> = layers
            .iter()
            .copied()
            .zip(buffers.iter().map(Vec::as_slice))
            .collect();
        write_shard(folder, part, parts, &borrowed, model)?;
        done += layers.len();
        progress(done, total);
    }
    Ok(finish(folder, parts, model, tokenizer)?)
}

/// Consecutive layers that go into one file.
fn groups(checkpoint: &Checkpoint) -> Vec<Vec<LayerId>> {
    let model = &checkpoint.manifest().model;
    let mut groups: Vec<Vec<LayerId>> = Vec::new();
    let mut room = 0;
    for layer in model.layers() {
        let bytes = model.layout(layer).numel() as u64 * 4;
        match groups.last_mut() {
            Some(group) if bytes <= room => {
                group.push(layer);
                room -= bytes;
            }
            _ => {
                groups.push(vec![layer]);
                room = MOST_BYTES.saturating_sub(bytes);
            }
        }
    }
    groups
}
