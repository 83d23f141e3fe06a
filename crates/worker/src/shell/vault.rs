//! The worker's folder on a memory file system, in which its trainers' state lies.
//!
//! In: the parent folder, the coordinator's URL, the worker's name and incarnation. Out: a folder of its own, locked
//! as long as the worker lives, and the jobs whose state a dead worker of this name left there.
//!
//! - WK-6 A worker takes over the folder of a dead one of its name and coordinator, never that of a living one.
//!
//! A worker that leaves in order removes its folder. Folders of workers that were killed and didn't come back are
//! marked by the next worker that starts on the machine, and removed by one that finds the mark an hour old.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rekindle_types::JobId;
use xxhash_rust::xxh3::xxh3_64;

use crate::trainer::left::{job_of, prefix};

const NAME: &str = "rekindle-";
const LOCK: &str = "lock";
const MARK: &str = "abandoned";
/// A dead worker's folder is kept at least this long for a successor.
const KEPT: Duration = Duration::from_secs(3600);

/// A worker's folder for shared memory.
#[derive(Debug)]
pub struct VaultFolder {
    path: PathBuf,
    _lock: File,
}

impl VaultFolder {
    /// Makes the folder, or takes over that of a dead worker of this name. None, and a warning, where that can't be
    /// done: trainers then keep nothing.
    pub fn make(parent: &Path, coordinator: &str, worker: &str, incarnation: u64) -> Option<Self> {
        let cluster = xxh3_64(coordinator.as_bytes());
        let name = format!("{NAME}{cluster:016x}-{worker}");
        let made = Self::lock(parent.join(&name)).or_else(|error| match error.kind() {
            // Another worker of this name lives; the coordinator will say so.
            ErrorKind::WouldBlock => Self::lock(parent.join(format!("{name}-{incarnation:x}"))),
            _ => Err(error),
        });
        sweep(parent, KEPT);
        made.inspect_err(|error| {
            tracing::warn!(%error, parent = %parent.display(), "no shared memory: trainers that die lose their state");
        })
        .ok()
    }

    fn lock(path: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&path)?;
        let lock = open_lock(&path)?;
        lock.try_lock().map_err(std::io::Error::from)?;
        match std::fs::remove_file(path.join(MARK)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Jobs whose state lies here.
    pub fn jobs(&self) -> Vec<JobId> {
        let names = files(&self.path).filter_map(|(name, _)| JobId::new(job_of(&name)?).ok());
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Removes what trainers of a job left.
    pub fn forget(&self, job: &JobId) {
        let start = prefix(job.as_str());
        for (name, path) in files(&self.path) {
            if name.starts_with(&start)
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(%error, path = %path.display(), "shared memory can't be freed");
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

fn files(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

fn open_lock(folder: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join(LOCK))
}

/// Marks folders whose workers are dead (nobody holds their locks), and removes those that were marked so long ago.
fn sweep(parent: &Path, kept: Duration) {
    for (name, path) in files(parent).filter(|(name, _)| name.starts_with(NAME)) {
        let Ok(lock) = File::open(path.join(LOCK)) else {
            continue;
        };
        if lock.try_lock().is_err() {
            continue;
        }
        let mark = path.join(MARK);
        let since = mark.metadata().and_then(|mark| mark.modified());
        let age = since.map(|since| since.elapsed().unwrap_or_default());
        let swept = match age {
            Ok(age) if age >= kept => std::fs::remove_dir_all(&path),
            Ok(_) => Ok(()),
            Err(_) => File::create(&mark).map(drop),
        };
        if let Err(error) = swept {
            tracing::debug!(%error, name, "a dead worker's memory stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "http://127.0.0.1:7070";

    /// A folder as a killed worker leaves it: not locked.
    fn abandon(folder: VaultFolder) -> PathBuf {
        let path = folder.path.clone();
        let copy = path.with_file_name("copy");
        std::fs::rename(&path, &copy).unwrap();
        drop(folder);
        std::fs::rename(&copy, &path).unwrap();
        path
    }

    #[test]
    fn a_successor_finds_what_a_killed_worker_of_its_name_left() {
        let parent = tempfile::tempdir().unwrap();
        let killed = VaultFolder::make(parent.path(), AT, "a", 1).unwrap();
        std::fs::write(killed.path().join("j-1+r0+e1"), "x").unwrap();
        let path = abandon(killed);
        let other = VaultFolder::make(parent.path(), "http://127.0.0.1:7071", "a", 2).unwrap();
        assert!(other.jobs().is_empty(), "another cluster's");
        let successor = VaultFolder::make(parent.path(), AT, "a", 3).unwrap();
        assert_eq!(successor.path(), path);
        assert_eq!(successor.jobs(), [JobId::new("j-1").unwrap()]);
        let twin = VaultFolder::make(parent.path(), AT, "a", 4).unwrap();
        assert_ne!(twin.path(), path, "a living worker's");
        drop(twin);
        assert!(path.exists());
        drop(successor);
        assert!(!path.exists(), "one that leaves in order leaves nothing");
    }

    #[test]
    fn folders_of_the_dead_go_when_nobody_came_for_them() {
        let parent = tempfile::tempdir().unwrap();
        let living = VaultFolder::make(parent.path(), AT, "a", 1).unwrap();
        let dead = abandon(VaultFolder::make(parent.path(), AT, "b", 2).unwrap());
        sweep(parent.path(), Duration::from_secs(60));
        assert!(dead.join(MARK).exists() && living.path().exists(), "marked");
        sweep(parent.path(), Duration::from_secs(60));
        assert!(dead.exists(), "too young");
        sweep(parent.path(), Duration::ZERO);
        assert!(living.path().exists() && !dead.exists());
        let dead = abandon(VaultFolder::make(parent.path(), AT, "b", 3).unwrap());
        sweep(parent.path(), Duration::from_secs(60));
        let back = VaultFolder::make(parent.path(), AT, "b", 4).unwrap();
        assert!(back.path() == dead && !dead.join(MARK).exists());
    }

    #[test]
    fn only_the_forgotten_job_s_memory_goes() {
        let parent = tempfile::tempdir().unwrap();
        let vault = VaultFolder::make(parent.path(), AT, "a", 1).unwrap();
        for name in ["j-1+r0+e1", "j-1+r1+e2", "j-10+r0+e1"] {
            std::fs::write(vault.path().join(name), "x").unwrap();
        }
        vault.forget(&JobId::new("j-1").unwrap());
        assert_eq!(vault.jobs(), [JobId::new("j-10").unwrap()]);
        assert!(vault.path().join("j-10+r0+e1").exists());
    }
}
