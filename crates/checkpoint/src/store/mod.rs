//! Where checkpoints are kept: one trait over a folder and object stores.
//!
//! ```text
//!   "runs/a/checkpoints", "s3://bucket/run"  --Location::parse--> Location --open--> Arc<dyn Store>
//! ```
//!
//! In: keys (paths with `/`, relative to the location) and bytes. Out: bytes, listings, and errors that say what kind
//! they are of.
//!
//! Invariants
//! - CK-6 What `put_new` or `put` wrote is durable when they return, and is seen whole or not at all, whatever
//!   crashes when.
//! - CK-7 Of any number of writers that `put_new` one key, exactly one succeeds.
//! - CK-8 A key is plain: it can't lead outside the location, and can't be taken for a file that is still being
//!   written.
//! - CK-9 Every call to a remote store ends: by its answer, or after the timeouts and the bounded retries of
//!   [`Remote`].
//!
//! [`conformance::check`] holds an implementation to this. Deliberately absent: large files as streams. Who writes
//! them takes [`Store::local_path`] or [`Store::objects`], whichever the store has.

pub mod conformance;
mod error;
mod faulty;
mod faulty_objects;
mod folder;
mod location;
mod objects;
mod remote;
mod uploads;

use std::fmt::Debug;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;

pub use error::{StoreError, StoreErrorKind};
pub use faulty::{Fault, Faulty, Op};
pub(crate) use folder::read_exact_at;
pub use folder::{Folder, create_parents, sync_parents};
pub use location::{Location, check_key};
pub use objects::Objects;
pub use remote::Remote;

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

/// One file of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the location.
    pub key: String,
    /// Length.
    pub bytes: u64,
    /// When it was last written, by the store's clock; milliseconds since 1970.
    pub modified_unix_ms: u64,
}

/// What [`Store::sweep_uploads`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Unfinished files or uploads that were removed.
    pub removed: u64,
    /// Whether the store can tell at all what is unfinished. Where it can't, a rule of the bucket must (see
    /// `docs/checkpoint-format.md`).
    pub listable: bool,
}

/// A place for checkpoints. Every method needs a running tokio runtime.
#[async_trait::async_trait]
pub trait Store: Debug + Send + Sync {
    /// Writes a file that must not be there yet (CK-6, CK-7).
    ///
    /// Over a network, [`StoreError::AlreadyExists`] may also be the answer to a second try whose first one went
    /// through: who needs to know reads what is there.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`], or what hinders.
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<()>;

    /// Writes a file, in place of one that may be there (CK-6).
    ///
    /// # Errors
    /// What hinders.
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()>;

    /// A whole file of at most `max_bytes`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Invalid`] for a larger one.
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes>;

    /// The bytes `range` of a file, all of them.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Invalid`] when the file ends before the range does.
    async fn read(&self, key: &str, range: Range<u64>) -> Result<Bytes>;

    /// Every finished file below the folder `prefix` (`""`: all), in order of keys. A folder that isn't there is empty.
    ///
    /// # Errors
    /// What hinders; [`StoreError::Invalid`] when there are more than [`MOST_ENTRIES`].
    async fn list(&self, prefix: &str) -> Result<Vec<Entry>>;

    /// The names of the folders right inside the folder `prefix`, in order.
    ///
    /// # Errors
    /// What hinders.
    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>>;

    /// Removes files, durably; ones that aren't there are fine.
    ///
    /// # Errors
    /// The first thing that hindered; the others were removed all the same.
    async fn delete(&self, keys: &[String]) -> Result<()>;

    /// Removes everything below the folder `prefix`, which isn't the location itself; returns how many files. Folders
    /// above it that hold nothing then go, too.
    ///
    /// # Errors
    /// As [`Store::delete`].
    async fn delete_dir(&self, prefix: &str) -> Result<u64>;

    /// Removes what writers that died left unfinished and hidden before `before_unix_ms` (the store's clock):
    /// temporary files, multipart uploads.
    ///
    /// # Errors
    /// What hinders.
    async fn sweep_uploads(&self, before_unix_ms: u64) -> Result<Swept>;

    /// URL of the location, for messages and manifests.
    fn describe(&self) -> String;

    /// URL of a key.
    fn url_of(&self, key: &str) -> String {
        format!("{}/{key}", self.describe().trim_end_matches('/'))
    }

    /// The path of a key, for a store that is a folder of this machine.
    fn local_path(&self, key: &str) -> Option<PathBuf>;

    /// The object store and the path that keys are relative to, for a store that is one.
    fn objects(&self) -> Option<(Arc<dyn ObjectStore>, ObjectPath)>;
}

/// Files of a listing at most: a million and some; more is a location that isn't one of checkpoints.
pub const MOST_ENTRIES: usize = 1 << 20;

/// Opens a location with the usual [`Remote`] settings. Nothing is created or asked over the network yet, except that
/// a folder is made.
///
/// # Errors
/// [`StoreError`] naming the location: a folder that can't be made, a client that lacks settings.
pub fn open(location: &Location) -> Result<Arc<dyn Store>> {
    open_with(location, &Remote::default())
}

/// As [`open`], with other timeouts and retries.
///
/// # Errors
/// As [`open`].
pub fn open_with(location: &Location, remote: &Remote) -> Result<Arc<dyn Store>> {
    match location.folder() {
        Some(path) => Ok(Arc::new(Folder::open(path)?)),
        None => Ok(Arc::new(remote::open(location, remote)?)),
    }
}
