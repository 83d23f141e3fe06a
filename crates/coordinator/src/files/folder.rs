//! A run's folder.

use std::fs;
use std::path::{Path, PathBuf};

use rekindle_proto::{ApiError, Reason};

/// One line per committed step.
pub(crate) const METRICS: &str = "metrics.jsonl";
/// One line per event.
pub(crate) const EVENTS: &str = "events.jsonl";

/// The path that a path or `file://` URL names.
pub(crate) fn local_path(text: &str) -> &str {
    text.strip_prefix("file://").unwrap_or(text)
}

/// The folder of `job.output`.
pub(crate) fn folder_of(output: &str) -> PathBuf {
    PathBuf::from(local_path(output))
}

/// The metrics of `job.output`.
pub(crate) fn metrics_of(output: &str) -> PathBuf {
    folder_of(output).join(METRICS)
}

/// Refuses a folder that holds another run, or that can't be a folder. Changes nothing.
pub(crate) fn check_unused(output: &str) -> Result<(), ApiError> {
    let (folder, metrics) = (folder_of(output), metrics_of(output));
    if fs::metadata(&metrics).is_ok_and(|file| file.len() > 0) {
        return Err(not_empty(output, "it holds the metrics.jsonl of another run"));
    }
    let existing = folder.ancestors().find(|path| path.symlink_metadata().is_ok());
    match existing {
        Some(path) if !path.is_dir() => Err(unusable(output, path)),
        _ => Ok(()),
    }
}

/// The folder belongs to another run.
pub(crate) fn not_empty(output: &str, why: &str) -> ApiError {
    let message =
        format!("job.output {output} can't be used: {why}; choose another folder or empty this one");
    ApiError::new(Reason::OutputNotEmpty, message).about("output", output)
}

fn unusable(output: &str, path: &Path) -> ApiError {
    let message = format!(
        "job.output {output} can't be used: {} is not a folder; choose another one",
        path.display()
    );
    ApiError::new(Reason::OutputUnusable, message).about("output", output)
}
