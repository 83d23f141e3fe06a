//! The calls to the operating system that writing a file needs, behind a seam, so that tests can make each of them
//! fail.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use crate::store::{create_parents, sync_parents};

/// Alignment of file offsets and lengths that every file system takes, and that none works better below of.
pub(super) const BLOCK: usize = 4096;

/// Calls about names.
pub(super) trait FileOps: Send + Sync {
    /// Makes a file that must not be there, and the folders between `root` and it; `direct`: past the page cache, if
    /// the file system can.
    fn create(&self, root: &Path, path: &Path, direct: bool) -> io::Result<Box<dyn OpenFile>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the name of a file and of the folders between `root` and it durable.
    fn sync_parents(&self, root: &Path, path: &Path) -> io::Result<()>;
}

/// Calls about a file that is being written.
pub(super) trait OpenFile {
    /// What addresses must be a multiple of to be written from; none: the file goes through the page cache and takes
    /// everything.
    fn direct(&self) -> Option<usize>;
    /// Takes the space for `bytes` now, so that a full disk says so at once.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Writes some of `bytes` at `offset`; returns how many.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Sets the length.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Makes content and length durable.
    fn sync(&self) -> io::Result<()>;
}

/// The real ones.
pub(super) struct System;

struct SystemFile {
    file: File,
    direct: Option<usize>,
}

impl FileOps for System {
    fn create(&self, root: &Path, path: &Path, direct: bool) -> io::Result<Box<dyn OpenFile>> {
        create_parents(root, path)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(target_os = "linux")]
        if direct {
            use std::os::unix::fs::OpenOptionsExt;
            match options.clone().custom_flags(libc::O_DIRECT).open(path) {
                Ok(file) => {
                    let direct = address_alignment(&file);
                    return Ok(Box::new(SystemFile { file, direct }));
                }
                // The file system can't; some leave the new file behind when they say so.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => match std::fs::remove_file(path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                },
                Err(e) => return Err(e),
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = direct;
        let file = options.open(path)?;
        Ok(Box::new(SystemFile { file, direct: None }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_parents(&self, root: &Path, path: &Path) -> io::Result<()> {
        sync_parents(root, path)
    }
}

/// What the kernel says of a file opened past the page cache; a page where it doesn't say (before Linux 6.1). None
/// where it needs larger blocks than ours, or can't after all.
#[cfg(target_os = "linux")]
fn address_alignment(file: &File) -> Option<usize> {
    use std::os::fd::AsRawFd;
    // SAFETY: all zeroes are a valid `statx`.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the path is an empty C string, and `found` can take the answer.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut found,
        )
    };
    if result != 0 || found.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Some(BLOCK);
    }
    let (address, offset) = (
        found.stx_dio_mem_align as usize,
        found.stx_dio_offset_align as usize,
    );
    (address > 0 && offset > 0 && BLOCK.is_multiple_of(offset) && BLOCK.is_multiple_of(address))
        .then_some(address)
}

impl OpenFile for SystemFile {
    fn direct(&self) -> Option<usize> {
        self.direct
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            let length = i64::try_from(bytes).map_err(io::Error::other)?;
            // SAFETY: the descriptor is open.
            while length > 0 && unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, length) } != 0 {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The file system can't; the writes will find out.
                    Some(libc::EOPNOTSUPP) => return Ok(()),
                    _ => return Err(error),
                }
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = bytes;
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::write_at(&self.file, bytes, offset);
        #[cfg(not(unix))]
        {
            use io::{Seek, SeekFrom, Write};
            (&self.file).seek(SeekFrom::Start(offset))?;
            (&self.file).write(bytes)
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}
