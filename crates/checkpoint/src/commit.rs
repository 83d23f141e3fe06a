//! The commit of a checkpoint: its manifest appears, whole, and only if no other did.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::format::{FormatError, LARGEST_MANIFEST, Manifest, manifest_key, step_folder};
use crate::state_error::{Result, StateError};
use crate::store::{Store, StoreError};

/// Times a conflict that leaves nothing behind is tried again.
const TRIES: usize = 3;

/// Makes `manifest` the checkpoint of its step, after a look whether its files can be seen from here with their
/// lengths. Doing it twice does no harm: the same manifest is found and taken for success, as after an answer that
/// was lost.
///
/// # Errors
/// [`StateError::Incomplete`] when files can't be seen, [`StateError::Taken`] when another writer was first, or what
/// the store says. After an error of the store the manifest may be there or not; a second call tells.
pub async fn commit(store: &Arc<dyn Store>, manifest: &Manifest) -> Result<()> {
    let key = manifest_key(manifest.step);
    let url = store.url_of(&key);
    let format = |error: FormatError| StateError::Format {
        url: url.clone(),
        error,
    };
    manifest.check().map_err(format)?;
    check_files(store, manifest).await?;
    let bytes = Bytes::from(manifest.to_bytes().map_err(format)?);
    let mut last = StoreError::AlreadyExists { url: url.clone() };
    for _ in 0..TRIES {
        match store.put_new(&key, bytes.clone()).await {
            Err(error @ StoreError::AlreadyExists { .. }) => last = error,
            done => return done.map_err(StateError::from),
        }
        match store.get(&key, LARGEST_MANIFEST).await {
            Ok(found) if found == bytes => return Ok(()),
            Ok(found) => return Err(taken(url, &found)),
            // A conflict with a writer that failed then.
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.into())
}

fn taken(url: String, found: &[u8]) -> StateError {
    let writer = match Manifest::from_bytes(found) {
        Ok(manifest) => manifest.writer,
        Err(error) => format!("somebody whose manifest {error}"),
    };
    StateError::Taken { url, writer }
}

/// Checks by a listing that every file of a manifest is there with its length.
pub(crate) async fn check_files(store: &Arc<dyn Store>, manifest: &Manifest) -> Result<()> {
    let folder = step_folder(manifest.step);
    let inside = format!("{folder}/{}", manifest.writer);
    let entries = store.list(&inside).await?;
    let lengths: BTreeMap<&str, u64> = entries.iter().map(|e| (e.key.as_str(), e.bytes)).collect();
    for file in &manifest.files {
        let why = match lengths.get(format!("{folder}/{}", file.path).as_str()) {
            Some(bytes) if *bytes == file.bytes => continue,
            Some(bytes) => format!(
                "{} has {bytes} bytes of {}; it was cut short or changed",
                file.path, file.bytes
            ),
            None => format!(
                "{} can't be seen from here; are the checkpoints in a place that all machines share?",
                file.path
            ),
        };
        let url = store.url_of(&folder);
        return Err(StateError::Incomplete { url, why });
    }
    Ok(())
}
