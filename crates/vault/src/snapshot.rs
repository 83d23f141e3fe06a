//! A successor's side: what a trainer that died left.

use std::fs::{File, TryLockError};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;

use xxhash_rust::xxh3::xxh3_64;

use crate::arena::MAGIC;
use crate::error::Unusable;
use crate::identity::Identity;
use crate::table::{self, Entry, HEADER, IDENTITY, Listed};

/// A file of shared memory, read only. Its writer is dead.
#[derive(Debug)]
pub struct Snapshot {
    start: NonNull<u8>,
    bytes: usize,
    /// Locked, so that no writer comes.
    _file: File,
    /// Valid steps with their pieces, newest first.
    steps: Vec<Listed>,
}

impl Snapshot {
    /// Opens what a trainer of this identity left.
    ///
    /// # Errors
    /// [`Unusable`] when there is nothing that can be used (VA-3, VA-4).
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, Unusable> {
        let file = File::open(path).map_err(Unusable::Io)?;
        file.try_lock_shared().map_err(|error| match error {
            TryLockError::WouldBlock => Unusable::Written,
            TryLockError::Error(error) => Unusable::Io(error),
        })?;
        let (start, bytes) = map(&file)?;
        let mut snapshot = Self {
            start,
            bytes,
            _file: file,
            steps: Vec::new(),
        };
        if snapshot.identity().as_ref() != Some(identity) {
            return Err(Unusable::Foreign);
        }
        let all = snapshot.all();
        let mut steps: Vec<_> = (0..2)
            .filter_map(|n| table::read(table::slot(all, n), bytes as u64))
            .collect();
        steps.sort_by_key(|listed| std::cmp::Reverse(listed.step));
        snapshot.steps = steps;
        Ok(snapshot)
    }

    fn all(&self) -> &[u8] {
        // SAFETY: mapped in `open` with this length, and nobody writes any more.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    fn identity(&self) -> Option<Identity> {
        let all = self.all();
        let number = |at: usize| Some(u64::from_le_bytes(all.get(at..at + 8)?.try_into().ok()?));
        let length = usize::try_from(number(8)?).ok().filter(|n| *n <= IDENTITY)?;
        let text = all.get(24..24 + length)?;
        if &all[..8] != MAGIC || xxh3_64(text) != number(16)? {
            return None;
        }
        serde_json::from_slice(text).ok()
    }

    /// The valid steps, newest first.
    pub fn steps(&self) -> impl Iterator<Item = u64> + '_ {
        self.steps.iter().map(|listed| listed.step)
    }

    /// The pieces of a step, if it is valid.
    #[must_use]
    pub fn entries(&self, step: u64) -> Option<&[Entry]> {
        self.listed(step).map(|listed| listed.entries.as_slice())
    }

    /// The bytes of a step that are no state ([`crate::Arena::publish_with`]), if it is valid.
    #[must_use]
    pub fn more(&self, step: u64) -> Option<&[u8]> {
        self.listed(step).map(|listed| self.at(&listed.more))
    }

    fn listed(&self, step: u64) -> Option<&Listed> {
        self.steps.iter().find(|listed| listed.step == step)
    }

    /// The bytes of a piece.
    #[must_use]
    pub fn bytes(&self, entry: &Entry) -> &[u8] {
        self.at(&entry.bytes)
    }

    /// These bytes of the file; none where it has not so many.
    #[must_use]
    pub fn at(&self, bytes: &Range<u64>) -> &[u8] {
        let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
        let range = at(bytes.start)..at(bytes.end);
        self.all().get(range).unwrap_or_default()
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // SAFETY: mapped in `open` with this length; slices of it can't outlive this value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// The file's bytes, read only, and their number.
fn map(file: &File) -> Result<(NonNull<u8>, usize), Unusable> {
    let length = file.metadata().map_err(Unusable::Io)?.len();
    let bytes = usize::try_from(length).ok().filter(|bytes| *bytes >= HEADER);
    let bytes = bytes.ok_or(Unusable::Foreign)?;
    // SAFETY: a fresh read-only mapping of a file whose writer is dead (its lock is free); nobody shortens such files.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    match NonNull::new(start.cast()).filter(|_| start != libc::MAP_FAILED) {
        Some(start) => Ok((start, bytes)),
        None => Err(Unusable::Io(std::io::Error::last_os_error())),
    }
}
