//! Why a trainer can't go on, and which failure class that is.

use rekindle_compute::ComputeError;
use rekindle_model::EngineError;
use rekindle_transport::TransportError;
use rekindle_types::{Failure, FailureClass, RankId};

use super::load::is_damaged;

/// Everything that ends a trainer before its last step.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// Training or held-out text is missing or unusable.
    #[error(transparent)]
    Data(#[from] rekindle_data::DataError),
    /// The model can't be built or was fed something that doesn't fit.
    #[error(transparent)]
    Model(#[from] rekindle_model::EngineError),
    /// The processor's threads or the CUDA device can't be had.
    #[error(transparent)]
    Compute(#[from] rekindle_compute::ComputeError),
    /// The device can't do what the job wants.
    #[error("{what}")]
    Device {
        /// What it can't do, and what to do.
        what: String,
    },
    /// The device has less memory than this rank takes.
    #[error("{what}")]
    OutOfMemory {
        /// What is wanted for what, what there is, and what to do.
        what: String,
    },
    /// A peer was lost, late, or broke the protocol.
    #[error(transparent)]
    Transport(#[from] rekindle_transport::TransportError),
    /// Initial weights can't be read, or the trained ones can't be written.
    #[error(transparent)]
    HuggingFace(#[from] rekindle_checkpoint::CheckpointError),
    /// The checkpoint to start from can't be read, or isn't what was written.
    #[error(transparent)]
    Checkpoint(#[from] rekindle_checkpoint::StateError),
    /// The state that was offered from the worker's memory can't be had.
    #[error("the state of step {step} in the worker's memory can't be used: {why}")]
    Lost {
        /// The step.
        step: u64,
        /// What is wrong.
        why: String,
    },
    /// A lost stage can't be made of what its neighbours sent.
    #[error(transparent)]
    Average(#[from] rekindle_plan::average::AverageError),
    /// The place for checkpoints can't be used.
    #[error(transparent)]
    Store(#[from] rekindle_checkpoint::StoreError),
    /// The state after the last step couldn't be saved.
    #[error("the state after the last step, {step}, is not saved: {why}")]
    NotSaved {
        /// The step.
        step: u64,
        /// Why not, and what to do.
        why: String,
    },
    /// A loss or a gradient is no longer a number.
    #[error(
        "step {step}: {count} rank(s) met a gradient or loss that is not a finite number or is out of range; lower optimizer.lr or check the data"
    )]
    NonFinite {
        /// The step it was met in: before its commit, or in the evaluation after it.
        step: u64,
        /// How many ranks saw one.
        count: i128,
    },
    /// The worker sent something that makes no sense.
    #[error("{what}")]
    Protocol {
        /// What and what to do.
        what: String,
    },
    /// The worker's pipe is gone or its lines can't be read.
    #[error("talking to the worker failed: {0}")]
    Pipe(#[from] std::io::Error),
}

impl TrainerError {
    /// The class that recovery and people go by.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Data(_) => FailureClass::DataError,
            Self::Model(EngineError::Compute(error)) | Self::Compute(error) => of_device(error),
            Self::OutOfMemory { .. } => FailureClass::OomDevice,
            Self::Model(_) | Self::Device { .. } => FailureClass::ConfigInvalid,
            Self::Transport(_) => FailureClass::Network,
            Self::HuggingFace(_) => FailureClass::OutputError,
            Self::Checkpoint(error) if is_damaged(error) => FailureClass::CheckpointCorrupt,
            Self::Checkpoint(_) => FailureClass::Network,
            Self::Lost { .. } => FailureClass::WorkerLost,
            Self::Store(_) | Self::NotSaved { .. } => FailureClass::CheckpointIo,
            Self::NonFinite { .. } | Self::Average(_) => FailureClass::NumericNan,
            Self::Protocol { .. } | Self::Pipe(_) => FailureClass::Internal,
        }
    }

    /// Whether the epoch can't go on for want of its peers, or was ended from outside: nothing is wrong with this
    /// process.
    #[must_use]
    pub fn gives_up(&self) -> bool {
        match self {
            Self::Transport(error) => error.is_peer_loss() || matches!(error, TransportError::Aborted { .. }),
            _ => false,
        }
    }

    /// What can't happen, unless Rekindle is wrong.
    #[must_use]
    pub fn defect(what: impl std::fmt::Display) -> Self {
        Self::Protocol {
            what: format!("{what} (a defect of Rekindle)"),
        }
    }

    /// The report about it. `worker` is filled in by the worker.
    #[must_use]
    pub fn failure(&self, rank: Option<RankId>) -> Failure {
        Failure {
            class: self.class(),
            rank,
            worker: None,
            message: self.to_string(),
        }
    }
}

/// The class of what a device says.
fn of_device(error: &ComputeError) -> FailureClass {
    match error {
        // Another process, on this worker or on another one, starts afresh.
        ComputeError::Lost { .. } => FailureClass::WorkerCrash,
        ComputeError::Faulty { .. } => FailureClass::GpuXid,
        ComputeError::OutOfMemory { .. } => FailureClass::OomDevice,
        _ => FailureClass::ConfigInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_is_a_crash_that_recovery_takes_up_and_a_refused_one_is_not() {
        let lost = || ComputeError::Lost { what: "gone".into() };
        let refused = ComputeError::Device { what: "no".into() };
        let faulty = ComputeError::Faulty { what: "ECC".into() };
        assert_eq!(TrainerError::from(faulty).class(), FailureClass::GpuXid);
        assert_eq!(TrainerError::from(lost()).class(), FailureClass::WorkerCrash);
        let inside = TrainerError::from(EngineError::from(lost()));
        assert_eq!(inside.class(), FailureClass::WorkerCrash);
        assert_eq!(TrainerError::from(refused).class(), FailureClass::ConfigInvalid);
    }
}
