//! What can go wrong with a communicator, and what that says about the peer.

use std::time::Duration;

use rekindle_compute::ComputeError;
use rekindle_compute::cuda::nccl::{Calls, Code};

use crate::error::End;

/// Why NCCL couldn't do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A result code, with what NCCL says about it.
    #[error("{call} gave {what}")]
    Code {
        /// Doing what.
        call: &'static str,
        /// The code.
        code: Code,
        /// What it means.
        what: String,
    },
    /// It should be over by now: an end hangs.
    #[error("{call} wasn't over after {waited:.3?}")]
    Hung {
        /// Doing what.
        call: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The peer's connection ended meanwhile.
    #[error("{call} was under way when the peer's connection ended")]
    HungUp {
        /// Doing what.
        call: &'static str,
    },
    /// This rank gave up meanwhile.
    #[error("{call} was stopped")]
    Stopped {
        /// Doing what.
        call: &'static str,
    },
    /// The device failed.
    #[error("{0}")]
    Device(#[from] ComputeError),
    /// The communicator isn't in a state for that: it has failed, or something is under way.
    #[error("{call} makes no sense on a communicator that is {state}")]
    State {
        /// The call that wasn't made.
        call: &'static str,
        /// What the communicator is.
        state: &'static str,
    },
    /// This NCCL can't do it.
    #[error("NCCL {version} can't {what}; install {since} or newer")]
    Missing {
        /// What.
        what: &'static str,
        /// The version there is, as NCCL writes it.
        version: i32,
        /// The first one that can.
        since: &'static str,
    },
    /// Ranks that don't fit the communicator.
    #[error("{why}")]
    Ranks {
        /// What is wrong with them.
        why: String,
    },
}

impl Fault {
    /// What a code says.
    pub(crate) fn of(calls: &dyn Calls, call: &'static str, code: Code) -> Self {
        let what = calls.explain(code);
        Self::Code { call, code, what }
    }

    /// Whether the peer is gone, as far as can be told.
    #[must_use]
    pub fn is_peer_loss(&self) -> bool {
        matches!(
            self,
            Self::Code {
                code: Code::REMOTE,
                ..
            } | Self::HungUp { .. }
        )
    }

    /// How the link ends because of it.
    pub(crate) fn end(&self) -> End {
        match self {
            Self::Stopped { .. } => End::Aborted(self.to_string()),
            fault if fault.is_peer_loss() => End::Reset(format!("NCCL: {fault}")),
            fault => End::Nccl(fault.to_string()),
        }
    }
}
