//! Where a run's files are.

use std::path::{Path, PathBuf};

/// The log of one trainer process: `<output>/logs/<worker>-rank<N>-e<epoch>.log`.
pub fn trainer_log(folder: &Path, worker: &str, rank: u32, epoch: u64) -> PathBuf {
    folder
        .join("logs")
        .join(format!("{worker}-rank{rank}-e{epoch}.log"))
}
