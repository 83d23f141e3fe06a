//! One committed checkpoint, opened.

use std::sync::Arc;

use rekindle_types::{Plan, RankId, StartPoint};
use tokio::runtime::Handle;

use super::source::Executor;
use crate::commit::check_files;
use crate::format::{
    LARGEST_MANIFEST, Manifest, Span, manifest_key, needed_spans, step_folder, step_of_folder,
};
use crate::state_error::{Result, StateError};
use crate::store::{Location, Store, StoreErrorKind};

/// A committed checkpoint whose manifest was read and checked.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    store: Arc<dyn Store>,
    manifest: Manifest,
    executor: Executor,
}

impl Checkpoint {
    /// Opens the checkpoint of `step`. Reads its manifest only, see [`Checkpoint::check_files`].
    ///
    /// # Errors
    /// [`StateError`]: no manifest, one that is newer or damaged or of another step, or what the store says.
    pub async fn open(store: Arc<dyn Store>, step: u64) -> Result<Self> {
        let key = manifest_key(step);
        let bytes = store.get(&key, LARGEST_MANIFEST).await?;
        let url = store.url_of(&key);
        let manifest = Manifest::from_bytes(&bytes).map_err(|error| StateError::Format {
            url: url.clone(),
            error,
        })?;
        if manifest.step != step {
            let why = format!(
                "is the manifest of step {}; the folder was renamed or copied",
                manifest.step
            );
            return Err(StateError::Request { url, why });
        }
        let executor = Executor::Handle(Handle::current());
        Ok(Self {
            store,
            manifest,
            executor,
        })
    }

    pub(super) fn with_executor(mut self, executor: Executor) -> Self {
        self.executor = executor;
        self
    }

    /// Checks by a listing that every file is there with its length. What is in them, reading checks.
    ///
    /// # Errors
    /// [`StateError::Incomplete`] naming the file, or what the store says.
    pub async fn check_files(&self) -> Result<()> {
        check_files(&self.store, &self.manifest).await
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The location it is in.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// URL of its folder.
    #[must_use]
    pub fn url(&self) -> String {
        self.store.url_of(&step_folder(self.manifest.step))
    }

    /// As a run names what it starts from.
    #[must_use]
    pub fn start_point(&self) -> StartPoint {
        StartPoint {
            step: self.manifest.step,
            url: self.url(),
            rebuilt: self.manifest.rebuilt.clone(),
        }
    }

    /// What `rank` of a plan needs of it.
    #[must_use]
    pub fn needed(&self, plan: &Plan, rank: RankId) -> Vec<Span> {
        needed_spans(&self.manifest.model, plan, rank)
    }

    /// Takes the URL of a checkpoint (`…/step-00000050`) apart: the location, and the step.
    ///
    /// # Errors
    /// [`StateError::Store`] for what is no such URL.
    pub fn parse_url(url: &str) -> Result<(Location, u64)> {
        let split = Location::parse(url)?.split_last();
        let found = split.and_then(|(location, name)| Some((location, step_of_folder(&name)?)));
        found.ok_or_else(|| {
            let why = "is not the folder of a checkpoint; its name is step- and at least 8 digits";
            StoreErrorKind::Invalid.error(url, why).into()
        })
    }

    pub(super) fn executor(&self) -> &Executor {
        &self.executor
    }
}
