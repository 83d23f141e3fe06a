//! Everything that can be wrong with a model folder, each error naming the file at fault and what to do.

use std::path::{Path, PathBuf};

/// Why a folder could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A config.json can't be understood.
    #[error("{}: {why}", path.display())]
    Config {
        /// The config.json.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A config.json asks for what this program can't compute.
    #[error("{}: {key} = {value} is not supported; {hint}", path.display())]
    Unsupported {
        /// The config.json.
        path: PathBuf,
        /// The key at fault.
        key: String,
        /// Its value as JSON.
        value: String,
        /// What would be.
        hint: &'static str,
    },
    /// A folder without weights.
    #[error("{}: neither model.safetensors.index.json nor model.safetensors is there; name a folder in Hugging Face's format", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// An index file can't be understood, or names a file it must not.
    #[error("{}: {why}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A safetensors file is cut short, foreign or broken.
    #[error("{}: not a whole safetensors file: {why}; fetch or write it again", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        why: String,
    },
    /// A tensor isn't where it should be.
    #[error("{}: tensor {name} is missing; {hint}", path.display())]
    MissingTensor {
        /// The folder or file.
        path: PathBuf,
        /// Hugging Face name.
        name: String,
        /// What to look for.
        hint: &'static str,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor {name} has shape {found:?}, but config.json makes it {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Hugging Face name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor of numbers we don't read.
    #[error("{}: tensor {name} has type {dtype}; F32, BF16 and F16 can be read", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// Hugging Face name.
        name: String,
        /// Type in the file.
        dtype: String,
    },
    /// A tensor that the model of the configuration doesn't have.
    #[error("{}: tensor {name} is not part of the model that config.json describes; refusing to ignore it", path.display())]
    ForeignTensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
    },
    /// A layer that the model hasn't, or a buffer of the wrong length.
    #[error("layer {layer}: {why}")]
    Layer {
        /// As `LayerId` prints.
        layer: String,
        /// What is wrong.
        why: String,
    },
    /// An export can't be put together.
    #[error("{}: {why}", path.display())]
    Export {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
}

pub(crate) type Result<T> = std::result::Result<T, CheckpointError>;

/// Names `path` in an error of the operating system.
pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CheckpointError + '_ {
    move |source| CheckpointError::Io {
        path: path.to_owned(),
        source,
    }
}
