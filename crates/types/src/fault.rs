//! Faults that are injected on request: what goes wrong, and to whom.
//!
//! In: nothing but values. Out: nothing but values; `rekindle-proto` puts them on the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{JobId, RankId, WorkerId};

/// The longest a fault may last, milliseconds.
pub const LONGEST_HOLD: u64 = 3_600_000;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// A trainer process is ended with SIGKILL.
    KillTrainer,
    /// A trainer process stands still for a while (SIGSTOP, SIGCONT): a hang.
    StopTrainer,
    /// A worker process ends itself with SIGKILL.
    KillWorker,
    /// A worker drops its session and stays away for a while.
    CutSession,
    /// The coordinator process ends itself with SIGKILL.
    KillCoordinator,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::KillTrainer,
        Self::StopTrainer,
        Self::KillWorker,
        Self::CutSession,
        Self::KillCoordinator,
    ];

    /// The name on the command line and in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KillTrainer => "kill-trainer",
            Self::StopTrainer => "stop-trainer",
            Self::KillWorker => "kill-worker",
            Self::CutSession => "cut-session",
            Self::KillCoordinator => "kill-coordinator",
        }
    }

    /// The kind of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }

    /// Whether it lasts for a while.
    #[must_use]
    pub fn lasts(self) -> bool {
        matches!(self, Self::StopTrainer | Self::CutSession)
    }

    /// Whether it can be done to such a target.
    #[must_use]
    pub fn suits(self, target: &FaultTarget) -> bool {
        match self {
            Self::KillTrainer | Self::StopTrainer => matches!(target, FaultTarget::Trainer { .. }),
            Self::KillWorker | Self::CutSession => matches!(target, FaultTarget::Worker(_)),
            Self::KillCoordinator => *target == FaultTarget::Coordinator,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// How long it lasts, milliseconds; 0 for a kind that doesn't last.
    pub hold_ms: u64,
}

/// What a fault is done to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FaultTarget {
    /// The coordinator.
    Coordinator,
    /// A worker.
    Worker(WorkerId),
    /// A trainer of a worker.
    Trainer {
        /// Who runs it.
        worker: WorkerId,
        /// Its job.
        job: JobId,
        /// Its rank.
        rank: RankId,
    },
}

impl FaultTarget {
    /// The worker it is or runs on.
    #[must_use]
    pub fn worker(&self) -> Option<&WorkerId> {
        match self {
            Self::Coordinator => None,
            Self::Worker(worker) | Self::Trainer { worker, .. } => Some(worker),
        }
    }
}

impl fmt::Display for FaultTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.write_str("coordinator"),
            Self::Worker(worker) => write!(f, "worker {worker}"),
            Self::Trainer { worker, job, rank } => write!(f, "{rank} of {job} on worker {worker}"),
        }
    }
}

/// What a coordinator asks of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultOrder {
    /// Names the order in its answer.
    pub number: u64,
    /// What goes wrong.
    pub fault: Fault,
    /// To what.
    pub target: FaultTarget,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_every_kind_suits_one_sort_of_target() {
        let worker = WorkerId::new("w").unwrap();
        let trainer = FaultTarget::Trainer {
            worker: worker.clone(),
            job: JobId::new("j").unwrap(),
            rank: RankId(0),
        };
        let targets = [FaultTarget::Coordinator, FaultTarget::Worker(worker), trainer];
        for kind in FaultKind::ALL {
            assert_eq!(FaultKind::parse(kind.as_str()), Some(*kind));
            assert_eq!(targets.iter().filter(|target| kind.suits(target)).count(), 1);
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
        }
        assert_eq!(FaultKind::parse("kill"), None);
    }
}
