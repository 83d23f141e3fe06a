//! A damaged checkpoint makes way for another one of its step, which the run has come to once more.
//!
//! Without that a run which had to go back to the checkpoint before could never save the step again, and one whose
//! last step it is could never end.
//!
//! In: a manifest whose step may be taken, and whether what is there was read and found damaged. Out: the commit, and
//! where the manifest of the damaged one lies now: `refused-<digest of it>/manifest.json` in the step's folder. Its
//! files stay where they are; gc takes both for leftovers.
//!
//! Invariants
//! - CK-25 What makes way was found damaged: by a reader, by its manifest, or by files of it that are missing or of
//!   another length. One that a newer version wrote, or that couldn't be looked at, stays. Its manifest is durable in
//!   its new place before it goes from the old one.
//!
//! Deliberately absent: protection from a second coordinator at the same location. Each has a place of its own.

use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use crate::commit::commit;
use crate::format::{FormatError, LARGEST_MANIFEST, Manifest, manifest_key, step_folder};
use crate::reader::Checkpoint;
use crate::state_error::{Result, StateError};
use crate::store::{Store, StoreError};

/// As [`commit`], and where the step is taken by another writer's checkpoint that is damaged, that one is put aside
/// first. `known_damaged` says that somebody has read it and found it so; otherwise it is looked at, but for its
/// tensors. Returns the URL of the other's manifest where one was put aside. Doing it twice does no harm.
///
/// # Errors
/// As [`commit`]; [`StateError::Taken`] when the other one isn't damaged.
pub async fn commit_over_damaged(
    store: &Arc<dyn Store>,
    manifest: &Manifest,
    known_damaged: bool,
) -> Result<Option<String>> {
    let taken = match commit(store, manifest).await {
        Err(StateError::Taken { url, writer }) => (url, writer),
        done => return done.map(|()| None),
    };
    let ours = taken.1 == manifest.writer;
    if ours || !(known_damaged || is_damaged(store, manifest.step).await?) {
        let (url, writer) = taken;
        return Err(StateError::Taken { url, writer });
    }
    let aside = put_aside(store, manifest.step).await?;
    commit(store, manifest).await.map(|()| aside)
}

/// Whether the checkpoint of a step is damaged, as far as its manifest and a listing tell.
async fn is_damaged(store: &Arc<dyn Store>, step: u64) -> Result<bool> {
    let seen = match Checkpoint::open(Arc::clone(store), step).await {
        Ok(found) => found.check_files().await,
        Err(error) => Err(error),
    };
    match seen {
        Ok(()) => Ok(false),
        Err(StateError::Format { error, .. }) => Ok(!matches!(error, FormatError::Newer { .. })),
        Err(StateError::Incomplete { .. } | StateError::Damaged(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Moves the manifest of a step out of the way; returns its new URL, none where there is none.
async fn put_aside(store: &Arc<dyn Store>, step: u64) -> Result<Option<String>> {
    let from = manifest_key(step);
    let bytes = match store.get(&from, LARGEST_MANIFEST).await {
        Err(StoreError::NotFound { .. }) => return Ok(None),
        found => found?,
    };
    let to = format!(
        "{}/refused-{:032x}/manifest.json",
        step_folder(step),
        xxh3_128(&bytes)
    );
    copy(store, &to, bytes).await?;
    store.delete(&[from]).await?;
    Ok(Some(store.url_of(&to)))
}

/// Writes a file that may be there already, with the same bytes: its name is made of them.
async fn copy(store: &Arc<dyn Store>, key: &str, bytes: Bytes) -> Result<()> {
    match store.put_new(key, bytes).await {
        Err(StoreError::AlreadyExists { .. }) => Ok(()),
        done => Ok(done?),
    }
}
