//! Files in a folder: space taken first, written from held memory past the page cache, synced.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::direct::{Walk, Write};
use super::file::{Content, Hasher};
use super::files::{BLOCK, FileOps, OpenFile};
use super::options::WriterOptions;
use super::worker::{Failure, Sink, Watch};
use crate::store::{Store, StoreError};

/// Bytes of a buffer for what can't be written as it lies: a multiple of a block.
const BUFFER: usize = 1 << 20;
/// Writes in a row that take less than a block, before that is an error.
const MOST_STUCK: u32 = 8;

/// See the module.
pub(super) struct LocalSink {
    store: Arc<dyn Store>,
    ops: Arc<dyn FileOps>,
    chunk: usize,
    /// Whether to write past the page cache; false for good once that was refused.
    direct: AtomicBool,
    /// For bytes that can't be written as they lie; one for each thread, kept.
    buffers: Mutex<Vec<Buffer>>,
}

impl LocalSink {
    pub fn new(store: Arc<dyn Store>, ops: Arc<dyn FileOps>, options: &WriterOptions) -> Self {
        let chunk = options.chunk_bytes.max(BLOCK) / BLOCK * BLOCK;
        let buffers = (0..options.threads.max(1)).map(|_| Buffer::new(BUFFER));
        Self {
            store,
            ops,
            chunk,
            direct: AtomicBool::new(options.direct),
            buffers: Mutex::new(buffers.collect()),
        }
    }

    /// The store's folder and the path of a key in it.
    fn place(&self, key: &str) -> Result<(PathBuf, PathBuf), StoreError> {
        let path = self.store.local_path(key);
        let root = path
            .as_deref()
            .and_then(|path| path.ancestors().nth(key.split('/').count()));
        match (root, &path) {
            (Some(root), Some(path)) => Ok((root.to_owned(), path.clone())),
            _ => Err(StoreError::Invalid {
                url: self.store.url_of(key),
                why: "it is no file of this machine (a defect)".to_owned(),
            }),
        }
    }

    fn named(&self, key: &str) -> impl Fn(&io::Error) -> StoreError + '_ {
        let url = self.store.url_of(key);
        move |error| StoreError::of_io(url.clone(), error)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.ops.remove(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn attempt(
        &self,
        root: &Path,
        path: &Path,
        content: &Content,
        hasher: &mut Hasher,
        watch: &Watch<'_>,
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::Store(self.named(&content.key)(&error));
        let open = self
            .ops
            .create(root, path, self.direct.load(Relaxed))
            .map_err(failed)?;
        let made = Made {
            ops: &*self.ops,
            path,
        };
        let mut buffer = self.borrow();
        let written = self.fill(&*open, content, hasher, &mut buffer, watch);
        self.buffers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(buffer);
        match written {
            Ok(()) => {
                std::mem::forget(made);
                Ok(())
            }
            Err(Stop::Io(error)) => Err(failed(error)),
            Err(Stop::Failure(failure)) => Err(failure),
        }
    }

    fn borrow(&self) -> Buffer {
        let kept = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| Buffer::new(BUFFER))
    }

    /// Hashes and writes chunk after chunk, so that a chunk is still in the cache when it is written.
    fn fill(
        &self,
        open: &dyn OpenFile,
        content: &Content,
        hasher: &mut Hasher,
        buffer: &mut Buffer,
        watch: &Watch<'_>,
    ) -> Result<(), Stop> {
        open.reserve(content.bytes())?;
        let address = open.direct();
        let mut walk = Walk::new(content.pieces().map_err(Failure::Broken)?, address, self.chunk);
        let (mut at, mut end) = (0, 0);
        while let Some(write) = walk.next(buffer.bytes()) {
            watch.tick()?;
            let bytes = match write {
                Write::Straight(bytes) => {
                    end += bytes.len() as u64;
                    bytes
                }
                Write::Gathered { padded, bytes } => {
                    end += bytes as u64;
                    &buffer.bytes()[..padded]
                }
            };
            hasher.until(content, end).map_err(Failure::Broken)?;
            self.write_all(open, bytes, at, address.is_some())?;
            at += bytes.len() as u64;
        }
        if at != end {
            open.set_len(end)?;
        }
        Ok(open.sync()?)
    }

    fn write_all(&self, open: &dyn OpenFile, mut bytes: &[u8], mut at: u64, direct: bool) -> io::Result<()> {
        let mut stuck = 0;
        while !bytes.is_empty() {
            let written = match open.write_at(bytes, at) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if direct && e.kind() == ErrorKind::InvalidInput => {
                    // It said it could; the next attempt goes without.
                    self.direct.store(false, Relaxed);
                    return Err(io::Error::other(format!(
                        "writing past the page cache was refused: {e}"
                    )));
                }
                written => written?,
            };
            // The rest must begin at a block again; what was written of it is written once more.
            let kept = if direct && written < bytes.len() {
                written / BLOCK * BLOCK
            } else {
                written
            };
            stuck = if kept == 0 { stuck + 1 } else { 0 };
            if stuck > MOST_STUCK {
                return Err(ErrorKind::WriteZero.into());
            }
            bytes = &bytes[kept.min(bytes.len())..];
            at += kept as u64;
        }
        Ok(())
    }
}

/// A file of ours that isn't finished: removed when the attempt fails or panics (a full disk needs the space back).
/// If that fails, the next attempt meets it again.
struct Made<'a> {
    ops: &'a dyn FileOps,
    path: &'a Path,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.ops.remove(self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished file stays behind");
        }
    }
}

/// Why a file isn't filled.
enum Stop {
    Io(io::Error),
    Failure(Failure),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Sink for LocalSink {
    fn write(
        &self,
        content: &Content,
        hasher: &mut Hasher,
        again: bool,
        watch: &Watch<'_>,
    ) -> Result<(), Failure> {
        let (root, path) = self.place(&content.key)?;
        if again {
            self.remove(&path).map_err(|e| self.named(&content.key)(&e))?;
        }
        self.attempt(&root, &path, content, hasher, watch)
    }

    fn seal(&self, keys: &[String]) -> Result<(), StoreError> {
        let mut folders: Vec<(PathBuf, PathBuf, &String)> = Vec::new();
        for key in keys {
            let (root, path) = self.place(key)?;
            if !folders
                .iter()
                .any(|(_, other, _)| other.parent() == path.parent())
            {
                folders.push((root, path, key));
            }
        }
        folders.iter().try_for_each(|(root, path, key)| {
            self.ops.sync_parents(root, path).map_err(|e| self.named(key)(&e))
        })
    }

    fn discard(&self, keys: &[String]) {
        for key in keys {
            let Ok((_, path)) = self.place(key) else { continue };
            if let Err(error) = self.remove(&path) {
                tracing::warn!(key, %error, "a file of a failed checkpoint stays behind");
            }
        }
    }
}

/// Bytes that begin at a page.
struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + BLOCK];
        let address = memory.as_ptr().addr();
        Self {
            start: address.next_multiple_of(BLOCK) - address,
            memory,
            len,
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
