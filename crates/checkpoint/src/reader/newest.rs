//! The checkpoint to start from: the newest that is whole, with the reason for each newer one that isn't.

use std::fmt;
use std::sync::Arc;

use super::Checkpoint;
use crate::format::{Manifest, manifest_key, step_of_folder};
use crate::state_error::{Result, StateError};
use crate::store::{Store, StoreError, StoreErrorKind};

/// A checkpoint that isn't used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its step.
    pub step: u64,
    /// The reason, with the URL at fault.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {}", self.step, self.why)
    }
}

/// Says why a checkpoint can't be used though it is whole (another model, for instance).
pub type Vetoes<'a> = &'a (dyn Fn(&Manifest) -> std::result::Result<(), String> + Sync);

/// Finds the newest checkpoint whose manifest is good, whose files are all there with their lengths, and which nobody
/// vetoes; and what is wrong with each newer one.
///
/// # Errors
/// CK-15: what the store says, when it can't be asked. A checkpoint that is damaged or unfinished is no error.
pub async fn newest_valid(
    store: &Arc<dyn Store>,
    veto: Vetoes<'_>,
) -> Result<(Option<Checkpoint>, Vec<Refusal>)> {
    let folders = store.list_dirs("").await?;
    let mut steps: Vec<u64> = folders.iter().filter_map(|name| step_of_folder(name)).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    let mut refusals = Vec::new();
    for step in steps {
        match open_whole(store, step, veto).await? {
            Ok(checkpoint) => return Ok((Some(checkpoint), refusals)),
            Err(why) => refusals.push(Refusal { step, why }),
        }
    }
    Ok((None, refusals))
}

/// The checkpoint of `step`, or why it isn't one to start from; the outer error is the store's.
pub(crate) async fn open_whole(
    store: &Arc<dyn Store>,
    step: u64,
    veto: Vetoes<'_>,
) -> Result<std::result::Result<Checkpoint, String>> {
    let checkpoint = match Checkpoint::open(Arc::clone(store), step).await {
        Ok(checkpoint) => checkpoint,
        Err(error) => return refuse(store, step, error),
    };
    if let Err(why) = veto(checkpoint.manifest()) {
        return Ok(Err(format!("{}: {why}", checkpoint.url())));
    }
    match checkpoint.check_files().await {
        Ok(()) => Ok(Ok(checkpoint)),
        Err(error) => refuse(store, step, error),
    }
}

fn refuse<T>(store: &Arc<dyn Store>, step: u64, error: StateError) -> Result<std::result::Result<T, String>> {
    match error {
        StateError::Store(StoreError::NotFound { .. }) => {
            let url = store.url_of(&manifest_key(step));
            Ok(Err(format!(
                "{url} is missing: the checkpoint was never committed"
            )))
        }
        StateError::Store(error) if error.kind() != StoreErrorKind::Invalid => Err(error.into()),
        error => Ok(Err(error.to_string())),
    }
}
