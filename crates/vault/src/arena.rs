//! A trainer's side: the file, memory from it, steps published and retired.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Result, VaultError};
use crate::identity::Identity;
use crate::table::{self, Entry, HEADER, IDENTITY, Listed, MOST_ENTRIES};

pub(crate) const MAGIC: &[u8; 8] = b"RKVAULT2";
const PAGE: usize = 4096;

/// Shared memory in a file. It gives memory and takes none back; the file stays when it is dropped.
#[derive(Debug)]
pub struct Arena {
    path: PathBuf,
    start: NonNull<u8>,
    bytes: usize,
    /// Locked as long as this process lives: nobody takes what is still being written for a dead trainer's (VA-4).
    _file: File,
    used: AtomicUsize,
    /// The steps of the two slots; 0 steps are none. Held while a slot is written.
    slots: Mutex<[Option<u64>; 2]>,
}

// SAFETY: the mapping belongs to this value; memory behind the header is given out once each (`take`), and the header
// is only touched with `slots` locked.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Makes the file anew, with room for `bytes` of state, and reserves all of it now: later there may be none, and
    /// a page that can't be had then ends the process.
    ///
    /// # Errors
    /// [`VaultError`]: no room, no such folder.
    pub fn create(path: &Path, bytes: u64, identity: &Identity) -> Result<Self> {
        let total = bytes + HEADER as u64;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(|source| io(path, source))?;
        file.try_lock().map_err(|error| io(path, error.into()))?;
        if let Err(error) = reserve(&file, total) {
            // What was reserved would be missing elsewhere.
            let _ = std::fs::remove_file(path);
            return Err(VaultError::NoRoom {
                path: path.to_owned(),
                bytes: total,
                source: error,
            });
        }
        let length = usize::try_from(total).map_err(|_| VaultError::TooLarge { what: "the state" })?;
        let start = map(&file, length).map_err(|source| io(path, source))?;
        let mut arena = Self {
            path: path.to_owned(),
            start,
            bytes: length,
            _file: file,
            used: AtomicUsize::new(HEADER),
            slots: Mutex::new([None; 2]),
        };
        arena.sign(identity)?;
        Ok(arena)
    }

    fn sign(&mut self, identity: &Identity) -> Result<()> {
        let text = serde_json::to_vec(identity).unwrap_or_default();
        if text.len() > IDENTITY {
            return Err(VaultError::TooLarge {
                what: "the plan of the job",
            });
        }
        let digest = xxh3_64(&text).to_le_bytes();
        // SAFETY: the header is inside the mapping, and nobody else has this arena yet.
        let header = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), HEADER) };
        header[8..16].copy_from_slice(&(text.len() as u64).to_le_bytes());
        header[16..24].copy_from_slice(&digest);
        header[24..24 + text.len()].copy_from_slice(&text);
        header[..8].copy_from_slice(MAGIC);
        Ok(())
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Zeroed memory of `bytes`, from a page's start on; each call gives other memory. None: the arena is used up.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<NonNull<u8>> {
        let size = bytes.checked_next_multiple_of(PAGE)?;
        let fits = |used: usize| used.checked_add(size).filter(|end| *end <= self.bytes);
        let at = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        // SAFETY: `at + size` is inside the mapping.
        at.ok().map(|at| unsafe { self.start.add(at) })
    }

    /// Where in the file memory of this arena lies; none for other memory.
    #[must_use]
    pub fn place_of(&self, bytes: &[u8]) -> Option<Range<u64>> {
        let from = (bytes.as_ptr() as usize).checked_sub(self.start.as_ptr() as usize)?;
        let end = from.checked_add(bytes.len()).filter(|end| *end <= self.bytes)?;
        (from >= HEADER).then_some(from as u64..end as u64)
    }

    /// Makes a step valid: everything its entries name is written and stays as it is until it is retired (VA-1). The
    /// older of two steps must be retired before.
    ///
    /// # Errors
    /// [`VaultError::TooLarge`] for more entries than the table has room for, or a third step.
    pub fn publish(&self, step: u64, entries: &[Entry]) -> Result<()> {
        self.publish_with(step, entries, 0..0)
    }

    /// The same with bytes of this arena ([`Arena::place_of`]) that belong to the step and are no state.
    ///
    /// # Errors
    /// As [`Arena::publish`].
    pub fn publish_with(&self, step: u64, entries: &[Entry], more: Range<u64>) -> Result<()> {
        let mut slots = self
            .slots
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let free = slots.iter().position(Option::is_none);
        let Some(number) = free.filter(|_| entries.len() <= MOST_ENTRIES) else {
            return Err(VaultError::TooLarge {
                what: "the number of layers (or of steps held)",
            });
        };
        let entries = entries.to_vec();
        table::publish(self.slot(number), &Listed { step, entries, more });
        slots[number] = Some(step);
        Ok(())
    }

    /// Makes all steps before `step` not valid: what they name may be written over after this.
    pub fn retire_before(&self, step: u64) {
        let mut slots = self
            .slots
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for (number, slot) in slots.iter_mut().enumerate() {
            if slot.take_if(|held| *held < step).is_some() {
                table::retire(self.slot(number));
            }
        }
    }

    /// The memory of a slot. Called with `slots` locked, one slice at a time.
    #[allow(
        clippy::mut_from_ref,
        reason = "exclusive by the lock on `slots`, which every caller holds"
    )]
    fn slot(&self, number: usize) -> &mut [u8] {
        // SAFETY: the header is inside the mapping; the lock on `slots` makes this the only access.
        let header = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), HEADER) };
        table::slot_mut(header, number)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped in `create` with this length; whoever took memory holds the arena alive.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

fn io(path: &Path, source: std::io::Error) -> VaultError {
    VaultError::Io {
        path: path.to_owned(),
        source,
    }
}

fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    let length = libc::off_t::try_from(bytes).map_err(std::io::Error::other)?;
    // SAFETY: a plain system call on an open file.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(error)),
    }
}

fn map(file: &File, bytes: usize) -> std::io::Result<NonNull<u8>> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a fresh shared mapping of a file that was made for it.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| std::io::Error::other("mapped at address 0"))
}
