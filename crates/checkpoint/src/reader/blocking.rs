//! Checkpoints for programs without an async runtime, such as a trainer.

use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use super::source::Executor;
use super::{Checkpoint, Refusal, Vetoes, newest_valid};
use crate::state_error::Result;
use crate::store::{Location, Store, StoreError, open};

/// A location with a small runtime of its own: one thread, besides those that wait for a disk. Not to be used inside
/// an async runtime.
#[derive(Debug)]
pub struct Blocking {
    store: Arc<dyn Store>,
    runtime: Arc<Runtime>,
}

impl Blocking {
    /// Opens a location.
    ///
    /// # Errors
    /// [`crate::StateError::Store`]: as [`open`], or threads that the system refuses.
    pub fn open(location: &Location) -> Result<Self> {
        Self::with_store(open(location)?)
    }

    /// As [`Blocking::open`], with a store that is open.
    ///
    /// # Errors
    /// Threads that the system refuses.
    pub fn with_store(store: Arc<dyn Store>) -> Result<Self> {
        let built = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("checkpoint-io")
            .enable_all()
            .build();
        let runtime = built.map_err(|e| StoreError::of_io(store.describe(), &e))?;
        Ok(Self {
            store,
            runtime: Arc::new(runtime),
        })
    }

    /// Opens the checkpoint that a URL names (`…/step-00000050`).
    ///
    /// # Errors
    /// As [`Checkpoint::parse_url`], [`Blocking::open`] and [`Checkpoint::open`].
    pub fn checkpoint_at(url: &str) -> Result<Checkpoint> {
        let (location, step) = Checkpoint::parse_url(url)?;
        Self::open(&location)?.checkpoint(step)
    }

    /// The location.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Runs any call of the store to its end.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// As [`Checkpoint::open`]. What it returns keeps the runtime alive.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn checkpoint(&self, step: u64) -> Result<Checkpoint> {
        self.run(Checkpoint::open(Arc::clone(&self.store), step))
            .map(|checkpoint| self.own(checkpoint))
    }

    /// As [`newest_valid`].
    ///
    /// # Errors
    /// As [`newest_valid`].
    pub fn newest_valid(&self, veto: Vetoes<'_>) -> Result<(Option<Checkpoint>, Vec<Refusal>)> {
        let (found, refusals) = self.run(newest_valid(&self.store, veto))?;
        Ok((found.map(|checkpoint| self.own(checkpoint)), refusals))
    }

    fn own(&self, checkpoint: Checkpoint) -> Checkpoint {
        checkpoint.with_executor(Executor::Owned(Arc::clone(&self.runtime)))
    }
}
