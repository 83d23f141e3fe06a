//! From a Hugging Face folder to a checkpoint of step 0: its weights, and moments that are zero.

use std::path::Path;
use std::sync::Arc;

use rekindle_types::{Epoch, FileEntry, JobId, ModelConfig, StateDigest, StateKind};

use crate::HfModel;
use crate::commit::commit;
use crate::format::{
    Lineage, Manifest, SCHEMA_VERSION, Span, Topology, manifest_key, part_path, writer_name,
};
use crate::plain::{Target, write_file};
use crate::state_error::{Result, StateError};
use crate::store::{Store, StoreError};

/// How to name an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOptions {
    /// Stands for the job in the manifest.
    pub job: JobId,
    /// The time, milliseconds since 1970.
    pub now_unix_ms: u64,
}

/// Writes the model of `folder` as the checkpoint of step 0 of a location, which must not have one. `progress` is
/// told layers done and layers to do. Memory: one layer (CK-18). Reads local files in place; call it where that may
/// block.
///
/// # Errors
/// A folder that isn't one of a model, [`StateError::Taken`] when step 0 is there, or what the store says.
pub async fn import_hf(
    folder: &Path,
    store: &Arc<dyn Store>,
    options: &ImportOptions,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<Manifest> {
    let model = HfModel::open(folder)?;
    let config = model.config();
    refuse_second(store).await?;
    let writer = writer_name(&options.job, Epoch(0), options.now_unix_ms);
    let target = Target {
        store,
        config,
        step: 0,
        writer: &writer,
    };
    let (mut files, total) = (Vec::new(), config.layers().count());
    for (number, layer) in config.layers().enumerate() {
        let weights = model.read_layer(layer)?;
        let span = |kind| Span::new(layer, kind, 0..weights.len() as u64);
        let path = |kind| part_path(&writer, kind, &layer.to_string());
        let mut copy = |chunk: &Span, values: &mut [f32]| {
            let at = |element: u64| usize::try_from(element).unwrap_or(0);
            values.copy_from_slice(&weights[at(chunk.start)..at(chunk.end)]);
        };
        let kind = StateKind::Weights;
        files.push(write_file(&target, &path(kind), &[span(kind)], &mut copy).await?);
        let moments = [span(StateKind::ExpAvg), span(StateKind::ExpAvgSq)];
        let mut zero = |_: &Span, _: &mut [f32]| {};
        files.push(write_file(&target, &path(StateKind::ExpAvg), &moments, &mut zero).await?);
        progress(number + 1, total);
    }
    let manifest = manifest(config, folder, options, writer.clone(), files);
    commit(store, &manifest).await?;
    Ok(manifest)
}

async fn refuse_second(store: &Arc<dyn Store>) -> Result<()> {
    let key = manifest_key(0);
    match store.get(&key, crate::format::LARGEST_MANIFEST).await {
        Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(StateError::Taken {
            url: store.url_of(&key),
            writer: "an import before this one".to_owned(),
        }),
    }
}

fn manifest(
    config: &ModelConfig,
    folder: &Path,
    options: &ImportOptions,
    writer: String,
    files: Vec<FileEntry>,
) -> Manifest {
    let digests = files.iter().map(FileEntry::state_digest);
    Manifest {
        schema_version: SCHEMA_VERSION,
        job: options.job.clone(),
        epoch: Epoch(0),
        writer,
        step: 0,
        tokens: 0,
        created_unix_ms: options.now_unix_ms,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        model: config.clone(),
        topology: Topology {
            lanes: 1,
            stages: vec![(0, config.num_hidden_layers + 2)],
        },
        recipe: None,
        lineage: Lineage {
            resumed_from: None,
            imported_from: Some(folder.display().to_string()),
        },
        rebuilt: Vec::new(),
        state_digest: digests.fold(StateDigest::default(), StateDigest::add),
        total_bytes: files.iter().map(|file| file.bytes).sum(),
        files,
    }
}
