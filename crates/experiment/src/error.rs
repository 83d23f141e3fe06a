//! Why an experiment stops.

use std::path::PathBuf;

use rekindle_model::StateDigest;

use crate::pipeline::Place;
use rekindle_plan::average::AverageError;

/// What went wrong, with the input at fault.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// A setting that can't be used.
    #[error("{option}: {why}")]
    Config {
        /// The option of the command line.
        option: &'static str,
        /// What is wrong and what to do.
        why: String,
    },
    /// The text can't be used.
    #[error(transparent)]
    Data(#[from] rekindle_data::DataError),
    /// A stage refused or its device failed.
    #[error(transparent)]
    Engine(#[from] rekindle_model::EngineError),
    /// A stage can't be rebuilt from its neighbours. Ends the run of the method, not the experiment.
    #[error(transparent)]
    Refused(#[from] AverageError),
    /// The state of a stage that is lost was asked for.
    #[error("{place} is lost; its state can't be read")]
    Dead {
        /// The stage.
        place: Place,
    },
    /// The loss or a gradient isn't finite. Ends the run of the method, not the experiment.
    #[error("step {step}: the loss or a gradient isn't finite; lower the learning rate")]
    NonFinite {
        /// The step.
        step: u64,
    },
    /// A method that claims to be exact isn't: a defect of this program.
    #[error(
        "{method} claims to be exact, but has digest {have} at step {step} where {want} was expected; please report this"
    )]
    Inexact {
        /// The method.
        method: String,
        /// The step.
        step: u64,
        /// What was found.
        have: StateDigest,
        /// What the undisturbed run had.
        want: StateDigest,
    },
    /// A file of the results can't be written.
    #[error("can't write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The results can't be put into JSON.
    #[error("can't write the results as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, ExperimentError>;

impl ExperimentError {
    /// A setting that can't be used.
    pub(crate) fn config(option: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Config { option, why }
    }

    /// Whether the method is to blame: then its run ends with this reason, and the other methods go on.
    #[must_use]
    pub fn ends_the_run_only(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::NonFinite { .. })
    }
}
