//! The folder of a run on this machine: one run at a time, and what an earlier run left there.
//!
//! In: the job. Out: a [`RunFolder`], which keeps other runs out as long as it lives. Every run has a coordinator's
//! folder and a job id of its own: `coordinator`, `coordinator-2`, …

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rekindle_types::{JobId, JobSpec};

use crate::problem::Problem;

/// A run's folder, taken.
#[derive(Debug)]
pub struct RunFolder {
    /// Says where the coordinator listens, while the run goes on.
    address: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    /// Where this run's coordinator keeps its journal.
    pub state_dir: PathBuf,
    /// The id this run's job gets.
    pub job: JobId,
    /// Whether an earlier run is to be gone on with.
    pub resume: bool,
}

impl RunFolder {
    /// Takes the folder of `spec`; makes it if need be.
    ///
    /// # Errors
    /// It can't be made, another run uses it, or it holds a run that saves nothing to go on from.
    pub fn take(spec: &JobSpec) -> Result<Self, Problem> {
        let folder = spec.job.folder();
        let lock = lock(folder)?;
        let resume = has_run(folder);
        if resume && !spec.checkpoint.is_on() {
            return Err(Problem::new(format!("{} holds a run already", folder.display()))
                .cause("it can't be gone on with, as the job saves no checkpoints")
                .fix("give job.output another folder, remove that one, or set checkpoint.every before the first run"));
        }
        let number = (1..u32::MAX)
            .find(|n| !state_dir(folder, *n).exists())
            .unwrap_or(u32::MAX);
        let job = JobId::new(format!("{}-{number}", spec.job.name))
            .map_err(|e| Problem::new("the job needs another name").cause(e))?;
        Ok(Self {
            address: address_file(folder),
            _lock: lock,
            state_dir: state_dir(folder, number),
            job,
            resume,
        })
    }
}

impl RunFolder {
    /// Writes down where this run's coordinator listens; taken away when the run ends.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn tell_address(&self, address: &str) -> Result<(), Problem> {
        std::fs::write(&self.address, format!("{address}\n"))
            .map_err(|e| Problem::new(format!("can't write {}", self.address.display())).cause(e))
    }

    /// Where the coordinator of the run that goes on in `folder` listens.
    ///
    /// # Errors
    /// No run goes on there.
    pub fn address_in(folder: &Path) -> Result<String, Problem> {
        let path = address_file(folder);
        let text = std::fs::read_to_string(&path).map_err(|e| {
            Problem::new(format!("no run goes on in {}", folder.display()))
                .cause(format!("{}: {e}", path.display()))
                .fix("name the folder of a `rekindle run` that is at work, or its coordinator with --coordinator")
        })?;
        Ok(text.trim().to_owned())
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // Left behind it names a coordinator that doesn't answer, which is said to whoever asks it.
        let _ = std::fs::remove_file(&self.address);
    }
}

fn address_file(folder: &Path) -> PathBuf {
    folder.join("coordinator.address")
}

/// Whether an earlier run has committed steps there.
fn has_run(folder: &Path) -> bool {
    let metrics = folder.join("metrics.jsonl").metadata();
    metrics.is_ok_and(|file| file.len() > 0)
}

fn state_dir(folder: &Path, number: u32) -> PathBuf {
    match number {
        1 => folder.join("coordinator"),
        n => folder.join(format!("coordinator-{n}")),
    }
}

fn lock(folder: &Path) -> Result<File, Problem> {
    let path = folder.join("run.lock");
    let open = || {
        std::fs::create_dir_all(folder)?;
        File::options().create(true).append(true).open(&path)
    };
    let file = open().map_err(|e| {
        Problem::new(format!("can't use the folder {}", folder.display()))
            .cause(e)
            .fix("job.output names the run's folder; choose one that can be written")
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Problem::new(format!("a run is going on in {}", folder.display()))
                .fix("wait for it to end, or give job.output another folder"))
        }
        Err(TryLockError::Error(e)) => Err(Problem::new(format!("can't lock {}", path.display())).cause(e)),
    }
}

#[cfg(test)]
mod tests {
    use rekindle_types::JobFile;

    use super::*;

    fn spec(folder: &Path, checkpoints: &str) -> JobSpec {
        let text = format!(
            "[job]\nname=\"j\"\noutput={:?}\n[model]\nhidden_size=8\nintermediate_size=8\nnum_hidden_layers=1\nnum_attention_heads=1\n\
             [data]\ntrain=[\"t\"]\nseq_len=4\n[training]\nsteps=1\nglobal_batch=1\nmicro_batch=1\n[optimizer]\nlr=0.1\n{checkpoints}",
            folder.display()
        );
        JobFile::parse(&text).unwrap().into_spec(None).unwrap()
    }

    #[test]
    fn one_run_at_a_time_and_a_place_of_its_own_for_each() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(folder.path(), "[checkpoint]\nevery=1\n");
        let first = RunFolder::take(&spec).unwrap();
        assert!(!first.resume);
        assert!(format!("{:?}", RunFolder::take(&spec).unwrap_err()).contains("going on"));
        std::fs::create_dir(&first.state_dir).unwrap();
        std::fs::write(folder.path().join("metrics.jsonl"), "{}\n").unwrap();
        first.tell_address("http://127.0.0.1:1").unwrap();
        assert_eq!(
            RunFolder::address_in(folder.path()).unwrap(),
            "http://127.0.0.1:1"
        );
        drop(first);
        assert!(RunFolder::address_in(folder.path()).is_err(), "it has ended");
        let second = RunFolder::take(&spec).unwrap();
        assert!(second.resume);
        assert_eq!(second.job.as_str(), "j-2");
        assert!(second.state_dir.ends_with("coordinator-2"));
    }

    #[test]
    fn a_run_without_checkpoints_cant_be_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("metrics.jsonl"), "{}\n").unwrap();
        let error = RunFolder::take(&spec(folder.path(), "")).unwrap_err();
        let error = format!("{error:?}");
        assert!(error.contains("holds a run already"), "{error}");
    }
}
