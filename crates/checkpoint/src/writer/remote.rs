//! Files in an object store: put in one request, or in parts of a multipart upload, straight from held memory.
//!
//! A writing thread hashes a part and hands it to the network, which sends while the next one is hashed. Parts in
//! flight are bounded over all files; none of their bytes is copied on the way to the client. An object is seen whole
//! or not at all; an upload that fails is given up.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::capture::Held;
use super::file::{Content, Hasher};
use super::options::WriterOptions;
use super::worker::{Failure, Sink, Watch};
use crate::store::{Store, StoreError};

/// Threads that talk to the network.
const NETWORK_THREADS: usize = 2;
/// Most parts of an upload (S3 takes 10,000).
const MOST_PARTS: u64 = 9_000;
/// How long giving an upload up, or removing files, may take.
const CLEANUP: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct RemoteSink {
    store: Arc<dyn Store>,
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    part_bytes: u64,
    parts: Arc<Semaphore>,
    hang_timeout: Duration,
}

impl RemoteSink {
    pub fn new(
        store: Arc<dyn Store>,
        (objects, prefix): (Arc<dyn ObjectStore>, Path),
        options: &WriterOptions,
    ) -> Result<Self, StoreError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(NETWORK_THREADS)
            .thread_name("checkpoint-net")
            .enable_all()
            .build()
            .map_err(|e| StoreError::of_io(store.describe(), &e))?;
        Ok(Self {
            store,
            objects,
            prefix,
            runtime: Some(runtime),
            part_bytes: options.part_bytes.max(1),
            parts: Arc::new(Semaphore::new(options.parts_at_once.max(1))),
            hang_timeout: options.hang_timeout,
        })
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.as_ref().map(|runtime| runtime.block_on(work))
    }

    fn path(&self, key: &str) -> Path {
        let parts = self.prefix.parts().chain(key.split('/').map(Into::into));
        parts.collect()
    }

    /// Waits for a request, as long as it may take and the capture is wanted.
    async fn request<T>(
        &self,
        key: &str,
        watch: &Watch<'_>,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failure> {
        let mut cancelled = watch.job.cancellation();
        tokio::select! {
            result = tokio::time::timeout(self.hang_timeout, work) => answered(&*self.store, key, self.hang_timeout, result),
            _ = cancelled.wait_for(|cancelled| *cancelled) => Err(Failure::Cancelled),
        }
    }

    async fn put(&self, content: &Content, hasher: &mut Hasher, watch: &Watch<'_>) -> Result<(), Failure> {
        let pieces = pieces(content)?;
        hasher.until(content, content.bytes()).map_err(Failure::Broken)?;
        let payload = payload(&pieces, 0..content.bytes());
        let path = self.path(&content.key);
        self.request(&content.key, watch, self.objects.put(&path, payload))
            .await?;
        watch.tick()
    }

    async fn upload(&self, content: &Content, hasher: &mut Hasher, watch: &Watch<'_>) -> Result<(), Failure> {
        let (key, path) = (&content.key, self.path(&content.key));
        let start = self.objects.put_multipart(&path);
        let mut upload = self.request(key, watch, start).await?;
        let sent = self.send_parts(content, hasher, &mut *upload, watch).await;
        let result = match sent {
            Ok(()) => self.request(key, watch, upload.complete()).await.map(|_| ()),
            Err(failure) => Err(failure),
        };
        if result.is_err() {
            // What stays of it is invisible, and for the bucket's own rules to remove.
            let _ = tokio::time::timeout(CLEANUP, upload.abort()).await;
        }
        result
    }

    async fn send_parts(
        &self,
        content: &Content,
        hasher: &mut Hasher,
        upload: &mut dyn MultipartUpload,
        watch: &Watch<'_>,
    ) -> Result<(), Failure> {
        let pieces = pieces(content)?;
        let bytes = content.bytes();
        let size = self.part_bytes.max(bytes.div_ceil(MOST_PARTS));
        // Dropping the set ends what is still being sent.
        let mut sending = JoinSet::new();
        for number in 0..bytes.div_ceil(size) {
            let range = number * size..bytes.min((number + 1) * size);
            hasher.until(content, range.end).map_err(Failure::Broken)?;
            let permit = self.request(&content.key, watch, permit(&self.parts)).await?;
            let part = upload.put_part(payload(&pieces, range));
            let limit = self.hang_timeout;
            sending.spawn(async move {
                let result = tokio::time::timeout(limit, part).await;
                drop(permit);
                result
            });
            while let Some(done) = sending.try_join_next() {
                self.sent(&content.key, done)?;
                watch.tick()?;
            }
        }
        let mut cancelled = watch.job.cancellation();
        loop {
            tokio::select! {
                done = sending.join_next() => match done {
                    None => return Ok(()),
                    Some(done) => self.sent(&content.key, done)?,
                },
                _ = cancelled.wait_for(|cancelled| *cancelled) => return Err(Failure::Cancelled),
            }
            watch.tick()?;
        }
    }

    fn sent(
        &self,
        key: &str,
        done: Result<Result<object_store::Result<()>, tokio::time::error::Elapsed>, tokio::task::JoinError>,
    ) -> Result<(), Failure> {
        match done {
            Ok(result) => answered(&*self.store, key, self.hang_timeout, result),
            Err(error) => Err(Failure::Broken(format!("sending a part ended: {error}"))),
        }
    }
}

/// A place among the parts in flight.
async fn permit(parts: &Arc<Semaphore>) -> object_store::Result<tokio::sync::OwnedSemaphorePermit> {
    let permit = Arc::clone(parts).acquire_owned().await;
    permit.map_err(|e| object_store::Error::Generic {
        store: "writer",
        source: Box::new(e),
    })
}

fn answered<T>(
    store: &dyn Store,
    key: &str,
    limit: Duration,
    result: Result<object_store::Result<T>, tokio::time::error::Elapsed>,
) -> Result<T, Failure> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(StoreError::of_objects(store.url_of(key), &error).into()),
        Err(_) => Err(Failure::Store(StoreError::Unavailable {
            url: store.url_of(key),
            why: format!("no answer within {} s", limit.as_secs()),
        })),
    }
}

/// Held bytes as the client wants them: shared, not copied.
struct Owner(Arc<dyn Held>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        // They were there before ([`Content::pieces`]), so they still are; if not, the lengths won't fit.
        self.0.bytes().unwrap_or(&[])
    }
}

/// The file's bytes, piece after piece.
fn pieces(content: &Content) -> Result<Vec<Bytes>, Failure> {
    let lengths = content.pieces().map_err(Failure::Broken)?;
    let held = content
        .held()
        .iter()
        .map(|held| Bytes::from_owner(Owner(Arc::clone(held))));
    let pieces: Vec<Bytes> = std::iter::once(Bytes::copy_from_slice(content.header()))
        .chain(held)
        .collect();
    if pieces
        .iter()
        .map(Bytes::len)
        .eq(lengths.iter().map(|piece| piece.len()))
    {
        Ok(pieces)
    } else {
        Err(Failure::Broken("held bytes changed their length".to_owned()))
    }
}

/// The bytes `range` of the file.
fn payload(pieces: &[Bytes], range: Range<u64>) -> PutPayload {
    let mut start = 0_u64;
    let mut parts = Vec::new();
    for piece in pieces {
        let end = start + piece.len() as u64;
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from < to {
            let at = |byte: u64| usize::try_from(byte - start).unwrap_or(usize::MAX);
            parts.push(piece.slice(at(from)..at(to)));
        }
        start = end;
    }
    parts.into_iter().collect()
}

impl Sink for RemoteSink {
    fn write(
        &self,
        content: &Content,
        hasher: &mut Hasher,
        _again: bool,
        watch: &Watch<'_>,
    ) -> Result<(), Failure> {
        let done = if content.bytes() <= self.part_bytes {
            self.run(self.put(content, hasher, watch))
        } else {
            self.run(self.upload(content, hasher, watch))
        };
        done.unwrap_or(Err(Failure::Cancelled))
    }

    /// Nothing: an object has its name as soon as it is there.
    fn seal(&self, _keys: &[String]) -> Result<(), StoreError> {
        Ok(())
    }

    fn discard(&self, keys: &[String]) {
        let removal = async { tokio::time::timeout(CLEANUP, self.store.delete(keys)).await };
        match self.run(removal) {
            Some(Ok(Err(error))) => tracing::warn!(%error, "files of a failed checkpoint stay behind"),
            Some(Err(_)) => {
                tracing::warn!("files of a failed checkpoint stay behind: the store doesn't answer")
            }
            _ => {}
        }
    }
}

impl Drop for RemoteSink {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
