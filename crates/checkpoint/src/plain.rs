//! Tensor files written one after another from values at hand: for imports and tests. Runs have a writer of their
//! own, which doesn't stop them.
//!
//! In: spans and a function that fills in their values, chunk by chunk. Out: a durable file and its entry for the
//! manifest. Memory: a few chunks, or parts of an upload.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::{ObjectStoreExt, WriteMultipart};
use rekindle_types::{FileEntry, ModelConfig, StateDigest};
use tokio::io::AsyncWriteExt;

use crate::dtype;
use crate::format::{FileLayout, Span, block_of, step_folder};
use crate::state_error::StateError;
use crate::store::{Store, StoreError, StoreErrorKind, create_parents, sync_parents};

/// Bytes of a part of an upload.
const PART: usize = 16 << 20;
/// Parts under way at once.
const PARTS: usize = 4;

/// Where files go, and whose they are.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The location of checkpoints.
    pub store: &'a Arc<dyn Store>,
    /// The model.
    pub config: &'a ModelConfig,
    /// The step.
    pub step: u64,
    /// The folder of the files, see [`crate::format::writer_name`].
    pub writer: &'a str,
}

/// Writes the file `path` (see [`crate::format::part_path`]) of `spans`. `fill` is given a part of a span and room
/// for its values.
///
/// # Errors
/// Spans that make no file, and what the store says.
pub async fn write_file(
    target: &Target<'_>,
    path: &str,
    spans: &[Span],
    fill: &mut (dyn FnMut(&Span, &mut [f32]) + Send),
) -> Result<FileEntry, StateError> {
    let key = format!("{}/{path}", step_folder(target.step));
    let url = target.store.url_of(&key);
    let named = |error| StateError::Format {
        url: url.clone(),
        error,
    };
    let layout = FileLayout::new(target.config, target.step, target.writer, spans).map_err(named)?;
    let mut sink = Sink::open(target.store, &key).await?;
    sink.write(&layout.header).await?;
    let mut digests = Vec::with_capacity(layout.sections.len());
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    for section in &layout.sections {
        let mut chunks = Vec::new();
        for index in 0..section.chunk_count() {
            let chunk = Span::new(section.layer, section.kind, section.chunk(index));
            values.clear();
            values.resize(usize::try_from(chunk.len()).unwrap_or(0), 0.0);
            fill(&chunk, &mut values);
            bytes.clear();
            dtype::write_f32(&values, &mut bytes).map_err(|e| StoreError::of_io(&url, &e))?;
            chunks.push(StateDigest::of_blocks(
                chunk.layer,
                chunk.kind,
                block_of(chunk.start),
                &bytes,
                4,
            ));
            sink.write(&bytes).await?;
        }
        digests.push(chunks);
    }
    sink.finish().await?;
    layout.entry(path, digests).map_err(named)
}

/// A file of a folder, or an upload.
struct Sink {
    url: String,
    kind: Kind,
}

enum Kind {
    File {
        file: tokio::fs::File,
        root: PathBuf,
        path: PathBuf,
    },
    Upload(WriteMultipart),
}

impl Sink {
    async fn open(store: &Arc<dyn Store>, key: &str) -> Result<Self, StoreError> {
        let url = store.url_of(key);
        let kind = match (store.local_path(key), store.objects()) {
            (Some(path), _) => {
                let failed = |e: std::io::Error| StoreError::of_io(&url, &e);
                let root = local_root(&path, key);
                create_parents(&root, &path).map_err(failed)?;
                let file = tokio::fs::File::create(&path).await.map_err(failed)?;
                Kind::File { file, root, path }
            }
            (None, Some((objects, prefix))) => {
                let place = prefix.parts().chain(key.split('/').map(Into::into)).collect();
                let upload = objects.put_multipart(&place).await;
                let upload = upload.map_err(|e| StoreError::of_objects(&url, &e))?;
                Kind::Upload(WriteMultipart::new_with_chunk_size(upload, PART))
            }
            (None, None) => {
                return Err(StoreErrorKind::Invalid.error(url, "this store takes no large files"));
            }
        };
        Ok(Self { url, kind })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        match &mut self.kind {
            Kind::File { file, .. } => file
                .write_all(bytes)
                .await
                .map_err(|e| StoreError::of_io(&self.url, &e)),
            Kind::Upload(upload) => {
                let room = upload.wait_for_capacity(PARTS).await;
                room.map_err(|e| StoreError::of_objects(&self.url, &e))?;
                upload.write(bytes);
                Ok(())
            }
        }
    }

    async fn finish(self) -> Result<(), StoreError> {
        let url = self.url;
        match self.kind {
            Kind::File { mut file, root, path } => {
                let failed = |e: std::io::Error| StoreError::of_io(&url, &e);
                file.flush().await.map_err(failed)?;
                file.sync_all().await.map_err(failed)?;
                sync_parents(&root, &path).map_err(failed)
            }
            Kind::Upload(upload) => upload
                .finish()
                .await
                .map(|_| ())
                .map_err(|e| StoreError::of_objects(&url, &e)),
        }
    }
}

/// The folder that `key` is relative to.
fn local_root(path: &std::path::Path, key: &str) -> PathBuf {
    path.ancestors()
        .nth(key.split('/').count())
        .unwrap_or(path)
        .to_owned()
}
