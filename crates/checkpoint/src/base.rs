//! The shape of the model that a job starts from, whatever it names: a checkpoint, a Hugging Face folder, a
//! `config.json`.

use std::path::Path;

use rekindle_types::ModelConfig;
use rekindle_types::spec::is_checkpoint_url;

use crate::{Blocking, HfModel, StateError, StoreErrorKind, read_config};

/// Reads the shape of a base model. Blocks; may be called from anywhere, as it waits for a store in a thread of its
/// own.
///
/// # Errors
/// [`StateError`] naming the file or checkpoint at fault.
pub fn base_model(from: &str) -> Result<ModelConfig, StateError> {
    if is_checkpoint_url(from) {
        let url = from.to_owned();
        // The runtime that reads must end there as well.
        let read = std::thread::spawn(move || {
            Blocking::checkpoint_at(&url).map(|found| found.manifest().model.clone())
        });
        return read.join().unwrap_or_else(|_| {
            let why = "reading it ended unexpectedly (a defect of Rekindle)";
            Err(StoreErrorKind::Invalid.error(from, why).into())
        });
    }
    let path = Path::new(from.strip_prefix("file://").unwrap_or(from));
    if path.is_dir() {
        Ok(HfModel::open(path)?.config().clone())
    } else {
        Ok(read_config(path)?)
    }
}
