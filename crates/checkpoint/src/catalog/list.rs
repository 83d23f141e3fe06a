//! Every checkpoint of a location, finished or not, from one listing and the manifests.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use rekindle_types::{Epoch, JobId, StateDigest};

use super::pins::pins;
use crate::format::{Manifest, Topology, step_of_folder};
use crate::reader::open_whole;
use crate::state_error::Result;
use crate::store::{Entry, Store};

/// Manifests read at once.
const TOGETHER: usize = 8;

/// One checkpoint's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Its step.
    pub step: u64,
    /// What it is.
    pub condition: Condition,
    /// Files in its folder, whoever wrote them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the last of them was written, by the store's clock; milliseconds since 1970.
    pub modified_unix_ms: u64,
    /// Names of the pins that hold it.
    pub pins: Vec<String>,
}

/// Whether a run can start from it.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// It is committed, and its files are there with their lengths.
    Valid(Box<Facts>),
    /// It has no manifest: it is being written, or whoever wrote it ended before.
    Unfinished,
    /// It has a manifest and can't be used.
    Broken(String),
}

/// What a manifest says, without its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The job.
    pub job: JobId,
    /// The epoch of the plan.
    pub epoch: Epoch,
    /// The folder of the files.
    pub writer: String,
    /// Tokens learnt from.
    pub tokens: u64,
    /// When it was committed, milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Version of the program.
    pub program: String,
    /// Parameters of the model.
    pub parameters: u64,
    /// How the run was laid out.
    pub topology: Topology,
    /// Digest of the state.
    pub state_digest: StateDigest,
}

impl Facts {
    fn of(manifest: &Manifest) -> Self {
        Self {
            job: manifest.job.clone(),
            epoch: manifest.epoch,
            writer: manifest.writer.clone(),
            tokens: manifest.tokens,
            created_unix_ms: manifest.created_unix_ms,
            program: manifest.program.clone(),
            parameters: manifest.model.parameters(),
            topology: manifest.topology.clone(),
            state_digest: manifest.state_digest,
        }
    }
}

/// Every folder of a step, in order of steps.
///
/// # Errors
/// What the store says, or a pin that can't be read.
pub async fn list(store: &Arc<dyn Store>) -> Result<Vec<Summary>> {
    let pins = pins(store).await?;
    let folders = by_step(store.list("").await?);
    let summaries = folders.into_iter().map(|(step, entries)| {
        let pins = pins
            .iter()
            .filter(|(_, pin)| pin.step == step)
            .map(|(name, _)| name.clone())
            .collect();
        summary(store, step, entries, pins)
    });
    stream::iter(summaries).buffered(TOGETHER).try_collect().await
}

/// The files of each step's folder.
pub(super) fn by_step(entries: Vec<Entry>) -> BTreeMap<u64, Vec<Entry>> {
    let mut folders: BTreeMap<u64, Vec<Entry>> = BTreeMap::new();
    for entry in entries {
        let folder = entry.key.split('/').next().and_then(step_of_folder);
        if let Some(step) = folder {
            folders.entry(step).or_default().push(entry);
        }
    }
    folders
}

async fn summary(
    store: &Arc<dyn Store>,
    step: u64,
    entries: Vec<Entry>,
    pins: Vec<String>,
) -> Result<Summary> {
    Ok(Summary {
        step,
        condition: condition(store, step, &entries).await?,
        files: entries.len() as u64,
        bytes: entries.iter().map(|entry| entry.bytes).sum(),
        modified_unix_ms: entries
            .iter()
            .map(|entry| entry.modified_unix_ms)
            .max()
            .unwrap_or(0),
        pins,
    })
}

/// What the folder of a step with these files is.
pub(super) async fn condition(store: &Arc<dyn Store>, step: u64, entries: &[Entry]) -> Result<Condition> {
    let manifest = crate::format::manifest_key(step);
    if !entries.iter().any(|entry| entry.key == manifest) {
        return Ok(Condition::Unfinished);
    }
    Ok(match open_whole(store, step, &|_| Ok(())).await? {
        Ok(checkpoint) => Condition::Valid(Box::new(Facts::of(checkpoint.manifest()))),
        Err(why) => Condition::Broken(why),
    })
}
