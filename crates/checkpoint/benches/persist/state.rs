//! Models, their state in memory, and where it goes.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rekindle_checkpoint::store::open;
use rekindle_checkpoint::{Capture, Held, HeldPart, Location, Outcome, Span, Store};
use rekindle_compute::Aligned;
use rekindle_types::checkpoint::chunk_elements;
use rekindle_types::{BLOCK, ModelConfig, RankId, StateDigest, StateKind};

use super::Error;

pub fn model(hidden: u32, layers: u32) -> ModelConfig {
    ModelConfig {
        hidden_size: hidden,
        intermediate_size: hidden * 8 / 3 / 16 * 16,
        num_hidden_layers: layers,
        num_attention_heads: 8,
        num_key_value_heads: 8,
        head_dim: hidden / 8,
        vocab_size: 256,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-6,
        rope_theta: 10000.0,
        tie_word_embeddings: false,
        initializer_range: 0.02,
    }
}

/// A layer's values, in the memory the CPU device uses.
struct Values(Aligned<f32>);

impl Held for Values {
    fn bytes(&self) -> Result<&[u8], String> {
        Ok(bytemuck::cast_slice(&self.0))
    }
}

/// A whole model's state.
pub fn state(model: &ModelConfig) -> Result<Vec<HeldPart>, Error> {
    let mut parts = Vec::new();
    let mut bits = 1_u32;
    for layer in model.layers() {
        let numel = model.layout(layer).numel();
        for kind in StateKind::ALL {
            let mut values = Aligned::<f32>::zeroed(numel)?;
            for value in values.iter_mut() {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *value = bits as f32;
            }
            parts.push(HeldPart {
                span: Span::new(layer, kind, 0..numel as u64),
                held: Arc::new(Values(values)),
                digests: None,
            });
        }
    }
    Ok(parts)
}

/// The same with digests, as an update leaves them.
pub fn hashed(parts: &[HeldPart]) -> Result<Vec<HeldPart>, Error> {
    let digests = |part: &HeldPart| -> Result<HeldPart, Error> {
        let Span { layer, kind, .. } = part.span;
        let chunk = usize::try_from(chunk_elements(part.span.len()))?;
        let chunks = part.held.bytes()?.chunks(chunk * 4).enumerate();
        let digest = |(n, bytes)| StateDigest::of_blocks(layer, kind, n * chunk / BLOCK, bytes, 4);
        Ok(HeldPart {
            digests: Some(chunks.map(digest).collect()),
            ..part.clone()
        })
    };
    parts.iter().map(digests).collect()
}

pub fn capture(model: &Arc<ModelConfig>, parts: Vec<HeldPart>, step: u64) -> Capture {
    Capture {
        step,
        writer: "bench-1-0".to_owned(),
        rank: RankId(0),
        lane: None,
        model: Arc::clone(model),
        parts,
    }
}

pub fn durable(outcomes: Vec<Outcome>) -> Result<usize, Error> {
    let mut files = 0;
    for outcome in outcomes {
        match outcome {
            Outcome::Durable(part) => files += part.files.len(),
            Outcome::Failed { error, .. } => return Err(error.into()),
        }
    }
    Ok(files)
}

pub fn local(path: &Path) -> Result<Arc<dyn Store>, Error> {
    Ok(open(&Location::parse(&path.display().to_string())?)?)
}

/// Removes what a case wrote and waits until the disk is done with that.
pub fn clean(folder: &Path) -> Result<(), Error> {
    for item in std::fs::read_dir(folder)? {
        let path = item?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(path)?;
        } else {
            std::fs::remove_file(path)?;
        }
    }
    File::open(folder)?.sync_all()?;
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}
