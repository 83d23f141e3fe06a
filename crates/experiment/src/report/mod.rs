//! The results as files: `results.json`, `table.md`, `loss.svg`, `time-to-target.svg`.

mod bars;
mod curves;
mod palette;
mod svg;
mod table;

use std::path::Path;

use crate::error::{ExperimentError, Result};
use crate::results::Results;

pub use table::table;

/// Writes all files into `folder`, which is made where it doesn't exist; files of an earlier experiment are replaced.
///
/// # Errors
/// [`ExperimentError::Write`] naming the file.
pub fn write(results: &Results, folder: &Path) -> Result<()> {
    let failed = |path: &Path, source| ExperimentError::Write {
        path: path.to_path_buf(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(|e| failed(folder, e))?;
    let files = [
        ("results.json", serde_json::to_string_pretty(results)? + "\n"),
        ("table.md", table(results)),
        ("loss.svg", curves::draw(results)),
        ("time-to-target.svg", bars::draw(results)),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|e| failed(&path, e))?;
    }
    Ok(())
}
