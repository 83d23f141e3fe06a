//! The worker's folder on a memory file system, in which its trainers' state lies.
//!
//! In: the parent folder, the worker's name and incarnation. Out: a folder of its own, locked as long as the worker lives and removed with it.
//! Folders of workers that died without removing theirs are removed at the next start of any worker on the machine.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use rekindle_types::JobId;

use crate::trainer::local::prefix;

const NAME: &str = "rekindle-";
const LOCK: &str = "lock";

/// A worker's folder for shared memory.
#[derive(Debug)]
pub struct VaultFolder {
    path: PathBuf,
    _lock: File,
}

impl VaultFolder {
    /// Makes the folder. None, and a warning, where that can't be done: trainers then keep nothing.
    pub fn make(parent: &Path, worker: &str, incarnation: u64) -> Option<Self> {
        sweep(parent);
        let path = parent.join(format!("{NAME}{worker}-{incarnation:x}"));
        let make = || -> std::io::Result<File> {
            std::fs::create_dir_all(&path)?;
            let lock = open_lock(&path)?;
            lock.try_lock().map_err(std::io::Error::from)?;
            Ok(lock)
        };
        match make() {
            Ok(_lock) => Some(Self { path, _lock }),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "no shared memory: trainers that die lose their state");
                None
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what trainers of a job left.
    pub fn forget(&self, job: &JobId) {
        let start = prefix(job.as_str());
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&start)
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(%error, path = %entry.path().display(), "shared memory can't be freed");
            }
        }
    }
}

impl Drop for VaultFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "shared memory can't be freed");
        }
    }
}

fn open_lock(folder: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join(LOCK))
}

/// Removes folders whose workers are dead: nobody holds their locks.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(NAME);
        let lock = File::open(entry.path().join(LOCK));
        let (true, Ok(lock)) = (ours, lock) else { continue };
        match lock.try_lock() {
            Ok(()) => {
                tracing::info!(path = %entry.path().display(), "removing the shared memory of a worker that died");
                let _ = std::fs::remove_dir_all(entry.path());
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_dead_go_and_those_of_the_living_stay() {
        let parent = tempfile::tempdir().unwrap();
        let living = VaultFolder::make(parent.path(), "a", 1).unwrap();
        let dead = parent.path().join("rekindle-b-2");
        std::fs::create_dir(&dead).unwrap();
        drop(open_lock(&dead).unwrap());
        let other = VaultFolder::make(parent.path(), "c", 3).unwrap();
        assert!(living.path().exists() && other.path().exists() && !dead.exists());
        let gone = other.path().to_owned();
        drop(other);
        assert!(!gone.exists() && living.path().exists());
    }

    #[test]
    fn only_the_forgotten_job_s_memory_goes() {
        let parent = tempfile::tempdir().unwrap();
        let vault = VaultFolder::make(parent.path(), "a", 1).unwrap();
        for name in ["j-1+r0+e1", "j-1+r1+e2", "j-10+r0+e1"] {
            std::fs::write(vault.path().join(name), "x").unwrap();
        }
        vault.forget(&JobId::new("j-1").unwrap());
        let left: Vec<_> = std::fs::read_dir(vault.path())
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(vault.path().join("j-10+r0+e1").exists());
    }
}
