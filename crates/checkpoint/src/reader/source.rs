//! Where the bytes of a checkpoint's files come from: positioned reads of local files, or requests to a store.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::{Handle, Runtime};

use super::Checkpoint;
use crate::format::step_folder;
use crate::store::{Store, StoreError, StoreErrorKind, read_exact_at};

type Result<T> = std::result::Result<T, StoreError>;

/// What drives requests while threads that aren't async wait for them.
#[derive(Debug, Clone)]
pub(crate) enum Executor {
    /// The runtime that the checkpoint was opened in; it must go on running.
    Handle(Handle),
    /// One of our own, which lives as long as somebody may need it.
    Owned(Arc<Runtime>),
}

impl Executor {
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        match self {
            Self::Handle(handle) => handle.block_on(work),
            Self::Owned(runtime) => runtime.handle().block_on(work),
        }
    }
}

/// Reads the files of a checkpoint, for one thread. Keeps the file it read last open.
pub(super) struct Source<'a> {
    checkpoint: &'a Checkpoint,
    open: Option<(usize, File)>,
}

impl<'a> Source<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint) -> Self {
        Self {
            checkpoint,
            open: None,
        }
    }

    /// URL of file number `file` of the manifest.
    pub(super) fn url(&self, file: usize) -> String {
        self.store().url_of(&self.key(file))
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.checkpoint.store()
    }

    fn key(&self, file: usize) -> String {
        let manifest = self.checkpoint.manifest();
        format!("{}/{}", step_folder(manifest.step), manifest.files[file].path)
    }

    /// The bytes `range` of a file in one request, where they come over a network; none where [`Source::read`] can
    /// put them anywhere at no cost.
    pub(super) fn fetch(&mut self, file: usize, range: &Range<u64>) -> Result<Option<Bytes>> {
        let key = self.key(file);
        if self.store().local_path(&key).is_some() {
            return Ok(None);
        }
        self.request(file, &key, range.clone()).map(Some)
    }

    /// Fills `buffer` from byte `offset` of the file.
    pub(super) fn read(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let key = self.key(file);
        if self.store().local_path(&key).is_some() {
            return self.read_local(file, &key, offset, buffer);
        }
        let bytes = self.request(file, &key, offset..offset + buffer.len() as u64)?;
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    fn request(&self, file: usize, key: &str, range: Range<u64>) -> Result<Bytes> {
        let wanted = range.end - range.start;
        let bytes = self
            .checkpoint
            .executor()
            .block_on(self.store().read(key, range))?;
        if bytes.len() as u64 != wanted {
            let why = format!("{wanted} bytes were asked for, {} came", bytes.len());
            return Err(StoreErrorKind::Unavailable.error(self.url(file), why));
        }
        Ok(bytes)
    }

    fn read_local(&mut self, file: usize, key: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset + buffer.len() as u64;
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                let why = format!("it ends before byte {end}: it was cut short");
                StoreErrorKind::Invalid.error(self.checkpoint.store().url_of(key), why)
            }
            _ => StoreError::of_io(self.checkpoint.store().url_of(key), &e),
        };
        let opened = match self.open.take() {
            Some((number, opened)) if number == file => opened,
            _ => {
                let path = self.store().local_path(key).unwrap_or_default();
                File::open(path).map_err(failed)?
            }
        };
        let read = read_exact_at(&opened, buffer, offset);
        let read = read.map_err(failed);
        self.open = Some((file, opened));
        read
    }
}
