//! Why a stage refuses.

use rekindle_compute::ComputeError;
use rekindle_types::LayerId;

/// What went wrong, with the input at fault.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The stage can't be built like this.
    #[error("stage: {what}")]
    Spec {
        /// What is impossible.
        what: String,
    },
    /// The layer isn't on this stage.
    #[error("{layer} is not on this stage; ask the rank that holds it")]
    Layer {
        /// The layer asked for.
        layer: LayerId,
    },
    /// A range outside what this rank holds of a layer.
    #[error("{layer}: elements {start}..{end} are outside {from}..{to}, which is what this rank holds of it")]
    Range {
        /// The layer.
        layer: LayerId,
        /// First element asked for.
        start: usize,
        /// One past the last.
        end: usize,
        /// First element held.
        from: usize,
        /// One past the last held.
        to: usize,
    },
    /// Weights that another lane's update has yet to set.
    #[error(
        "{layer}: weights {start}..{end} aren't here yet after the last update; take them over from the other lanes first"
    )]
    Incomplete {
        /// The layer.
        layer: LayerId,
        /// First element missing.
        start: usize,
        /// One past the last of them.
        end: usize,
    },
    /// A shadow is to take a step without the gradient of a layer.
    #[error(
        "{layer}: its gradient of this step hasn't come; a shadow is updated once it has those of all layers"
    )]
    NoGradient {
        /// The layer.
        layer: LayerId,
    },
    /// The call doesn't fit this stage or the order of calls.
    #[error("micro-batch slot {slot}: {what}")]
    Order {
        /// The slot of the call.
        slot: u32,
        /// What is out of order.
        what: &'static str,
    },
    /// Input of the wrong length or kind.
    #[error("{what}: {have} elements given, {want} needed")]
    Input {
        /// Which input.
        what: &'static str,
        /// Elements given.
        have: usize,
        /// Elements needed.
        want: usize,
    },
    /// An operation failed.
    #[error(transparent)]
    Compute(#[from] ComputeError),
}

/// What stage calls return.
pub type Result<T> = std::result::Result<T, EngineError>;
