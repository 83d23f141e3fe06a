//! Object stores (S3, GCS, Azure, memory) as a [`Store`].
//!
//! In: any `object_store::ObjectStore` that knows conditional puts. Out: the same, with keys checked and errors
//! sorted by what a caller can do about them. What is durable when is the service's promise.

use std::error::Error as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path as ObjectPath;
use object_store::{Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};

use super::uploads::Uploads;
use super::{Entry, MOST_ENTRIES, Result, Store, StoreError, StoreErrorKind, Swept, check_key};

/// A prefix of a bucket.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    url: String,
    uploads: Option<Uploads>,
}

impl Objects {
    /// Keys below `prefix` of `store`; `url` is what messages call it.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a prefix that is no path.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str, url: impl Into<String>) -> Result<Self> {
        let url = url.into();
        match ObjectPath::parse(prefix) {
            Ok(prefix) => Ok(Self {
                store,
                prefix,
                url,
                uploads: None,
            }),
            Err(e) => Err(StoreErrorKind::Invalid.error(url, e.to_string())),
        }
    }

    /// Lets unfinished uploads be swept.
    pub(super) fn with_uploads(mut self, uploads: Uploads) -> Self {
        self.uploads = Some(uploads);
        self
    }

    /// The path of a key or, for `""`, of the location.
    fn path(&self, key: &str) -> Result<ObjectPath> {
        if key.is_empty() {
            return Ok(self.prefix.clone());
        }
        check_key(&self.url, key)?;
        let parts = self.prefix.parts().chain(key.split('/').map(Into::into));
        Ok(parts.collect())
    }

    fn failed(&self, key: &str) -> impl FnOnce(Error) -> StoreError + '_ {
        let url = if key.is_empty() {
            self.url.clone()
        } else {
            self.url_of(key)
        };
        move |error| classify(url, &error)
    }

    fn key(&self, path: &ObjectPath) -> Option<String> {
        let parts: Vec<_> = path.prefix_match(&self.prefix)?.collect();
        let names: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        Some(names.join("/")).filter(|key| check_key("", key).is_ok())
    }

    async fn write(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<()> {
        check_not_empty(&self.url, key)?;
        let path = self.path(key)?;
        let put = self.store.put_opts(&path, bytes.into(), mode.into());
        match put.await {
            Ok(_) => Ok(()),
            // Nothing has to be there for a file to be written but the bucket.
            Err(error @ Error::NotFound { .. }) => {
                let why = format!("does the bucket exist? ({error})");
                Err(StoreErrorKind::Invalid.error(self.url_of(key), why))
            }
            Err(error) => Err(self.failed(key)(error)),
        }
    }

    /// Why a range of a file can't be read: often because the file is too short, which services say in different ways.
    async fn why_unreadable(&self, key: &str, end: u64, error: Error) -> StoreError {
        let found = self.failed(key)(error);
        if found.kind() == StoreErrorKind::NotFound {
            return found;
        }
        let Ok(path) = self.path(key) else { return found };
        match self.store.head(&path).await {
            Ok(meta) if meta.size < end => short(self.url_of(key), meta.size, end),
            _ => found,
        }
    }
}

fn check_not_empty(place: &str, key: &str) -> Result<()> {
    if key.is_empty() {
        check_key(place, key)
    } else {
        Ok(())
    }
}

fn short(url: String, bytes: u64, end: u64) -> StoreError {
    let why = format!("it has {bytes} bytes, and bytes up to {end} were asked for: it was cut short");
    StoreError::Invalid { url, why }
}

#[async_trait::async_trait]
impl Store for Objects {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.write(key, bytes, PutMode::Create).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.write(key, bytes, PutMode::Overwrite).await
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes> {
        check_not_empty(&self.url, key)?;
        let found = self.store.get(&self.path(key)?).await.map_err(self.failed(key))?;
        let bytes = found.meta.size;
        if bytes > max_bytes {
            let why = format!("{bytes} bytes are more than the {max_bytes} that are read of such a file");
            return Err(StoreErrorKind::Invalid.error(self.url_of(key), why));
        }
        found.bytes().await.map_err(self.failed(key))
    }

    async fn read(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        check_not_empty(&self.url, key)?;
        let path = self.path(key)?;
        if range.is_empty() {
            let meta = self.store.head(&path).await.map_err(self.failed(key))?;
            let fits = range.end <= meta.size;
            return if fits {
                Ok(Bytes::new())
            } else {
                Err(short(self.url_of(key), meta.size, range.end))
            };
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let found = match self.store.get_opts(&path, options).await {
            Ok(found) => found,
            Err(error) => return Err(self.why_unreadable(key, range.end, error).await),
        };
        if found.range != range {
            return Err(short(self.url_of(key), found.meta.size, range.end));
        }
        found.bytes().await.map_err(self.failed(key))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let from = self.path(prefix)?;
        let metas: Vec<ObjectMeta> = self
            .store
            .list(Some(&from))
            .take(MOST_ENTRIES + 1)
            .try_collect()
            .await
            .map_err(self.failed(prefix))?;
        if metas.len() > MOST_ENTRIES {
            let why = format!("more than {MOST_ENTRIES} files; this is no folder of checkpoints");
            return Err(StoreErrorKind::Invalid.error(self.url_of(prefix), why));
        }
        let entry = |meta: &ObjectMeta| {
            Some(Entry {
                key: self.key(&meta.location)?,
                bytes: meta.size,
                modified_unix_ms: u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0),
            })
        };
        let mut entries: Vec<Entry> = metas.iter().filter_map(entry).collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>> {
        let from = self.path(prefix)?;
        let listing = self.store.list_with_delimiter(Some(&from)).await;
        let folders = listing.map_err(self.failed(prefix))?.common_prefixes;
        let name = |path: &ObjectPath| path.filename().map(str::to_owned);
        let mut names: Vec<String> = folders.iter().filter_map(name).collect();
        names.retain(|name| check_key("", name).is_ok());
        names.sort();
        Ok(names)
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        let mut paths = Vec::with_capacity(keys.len());
        for key in keys {
            check_not_empty(&self.url, key)?;
            paths.push(self.path(key)?);
        }
        let mut removed = self
            .store
            .delete_stream(stream::iter(paths.into_iter().map(Ok)).boxed());
        let mut first = Ok(());
        while let Some(result) = removed.next().await {
            match result {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => first = first.and(Err(self.failed("")(error))),
            }
        }
        first
    }

    async fn delete_dir(&self, prefix: &str) -> Result<u64> {
        check_not_empty(&self.url, prefix)?;
        let keys: Vec<String> = self
            .list(prefix)
            .await?
            .into_iter()
            .map(|entry| entry.key)
            .collect();
        self.delete(&keys).await?;
        Ok(keys.len() as u64)
    }

    async fn sweep_uploads(&self, before_unix_ms: u64) -> Result<Swept> {
        match &self.uploads {
            Some(uploads) => uploads.sweep(&self.prefix, &self.url, before_unix_ms).await,
            None => Ok(Swept::default()),
        }
    }

    fn describe(&self) -> String {
        self.url.clone()
    }

    fn local_path(&self, _key: &str) -> Option<PathBuf> {
        None
    }

    fn objects(&self) -> Option<(Arc<dyn ObjectStore>, ObjectPath)> {
        Some((Arc::clone(&self.store), self.prefix.clone()))
    }
}

impl StoreError {
    /// An error of `object_store` at `url`.
    #[must_use]
    pub fn of_objects(url: impl Into<String>, error: &Error) -> Self {
        classify(url.into(), error)
    }
}

fn classify(url: String, error: &Error) -> StoreError {
    let text = error.to_string();
    let kind = match error {
        Error::NotFound { .. } => StoreErrorKind::NotFound,
        Error::AlreadyExists { .. } | Error::Precondition { .. } => StoreErrorKind::AlreadyExists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreErrorKind::Denied,
        Error::Generic { .. } | Error::JoinError { .. }
            if METADATA.iter().any(|path| text.contains(path)) =>
        {
            let why = format!(
                "no credentials in the environment, and the machine's metadata service gave none: {text}"
            );
            return StoreErrorKind::Denied.error(url, why);
        }
        Error::Generic { .. } | Error::JoinError { .. } => generic(error),
        _ => StoreErrorKind::Invalid,
    };
    kind.error(url, text)
}

/// Parts of the addresses that clouds give credentials at; they are asked when the environment has none.
const METADATA: [&str; 4] = [
    "/latest/api/token",
    "/latest/meta-data",
    "/computeMetadata/",
    "/metadata/identity",
];

/// The library has no kinds for what servers and networks say, but it keeps their words and its own HTTP errors.
fn generic(error: &Error) -> StoreErrorKind {
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&[
        "status code: 507",
        "StorageFull",
        "QuotaExceeded",
        "InsufficientStorage",
    ]) {
        return StoreErrorKind::NoSpace;
    }
    let mut causes = std::iter::successors(error.source(), |cause: &&(dyn std::error::Error + 'static)| {
        (*cause).source()
    });
    let network = causes.any(|cause| {
        let kind = cause.downcast_ref::<HttpError>().map(HttpError::kind);
        kind.is_some_and(|kind| kind != HttpErrorKind::Unknown)
    });
    if network || says(&["status code: 5", "status code: 429", "status code: 408"]) {
        return StoreErrorKind::Unavailable;
    }
    StoreErrorKind::Invalid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_credentials_are_called_so() {
        let source = "Error performing PUT http://169.254.169.254/latest/api/token: timed out".into();
        let error = StoreError::of_objects("s3://b/k", &Error::Generic { store: "S3", source });
        assert_eq!(error.kind(), StoreErrorKind::Denied);
        assert!(
            error.to_string().contains("no credentials in the environment"),
            "{error}"
        );
    }
}
