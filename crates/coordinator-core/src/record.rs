//! What the coordinator's journal holds.

use std::collections::BTreeMap;
use std::fmt;

use rekindle_types::{Epoch, Failure, JobId, JobSpec, JobState, Plan, RankId, StepReport, WorkerId};
use serde::{Deserialize, Serialize};

use crate::Millis;

/// Number of a record, from 1, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One decision, with its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// When, by the coordinator's clock.
    pub at: Millis,
    /// What.
    pub change: Change,
}

/// What was decided or learnt. Every variant is about one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// A job was taken: it is queued.
    Submitted {
        /// Its id.
        job: JobId,
        /// The client's request; empty: none.
        request_id: String,
        /// What to run.
        spec: Box<JobSpec>,
    },
    /// Who does what: the job starts.
    Planned {
        /// The plan, with its epoch.
        plan: Plan,
        /// The incarnation of each of its workers. A worker that comes back with another one has lost its trainers.
        members: BTreeMap<WorkerId, u64>,
    },
    /// The first step was committed: the job runs.
    Running {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
    },
    /// A rank is through.
    RankFinished {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
        /// The rank.
        rank: RankId,
    },
    /// Something went wrong; the verdict follows when it is clear what came first.
    FailureNoted {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
        /// What went wrong.
        failure: Failure,
    },
    /// The job is to end on the user's wish.
    CancelRequested {
        /// The job.
        job: JobId,
    },
    /// The job ended.
    Ended {
        /// The job.
        job: JobId,
        /// A terminal state.
        state: JobState,
        /// Why, when it failed.
        failure: Option<Failure>,
        /// The last committed step known (finite numbers only, as JSON has no others).
        last_step: Option<StepReport>,
    },
    /// Something worth a line in the job's history; changes nothing else.
    Noted {
        /// The job.
        job: JobId,
        /// `coordinator` or `worker/NAME`.
        actor: String,
        /// For instance `trainer.ready`.
        kind: String,
        /// One sentence.
        detail: String,
    },
}

impl Change {
    /// The job it is about.
    #[must_use]
    pub fn job(&self) -> &JobId {
        match self {
            Self::Planned { plan, .. } => &plan.job,
            Self::Submitted { job, .. }
            | Self::Running { job, .. }
            | Self::RankFinished { job, .. }
            | Self::FailureNoted { job, .. }
            | Self::CancelRequested { job }
            | Self::Ended { job, .. }
            | Self::Noted { job, .. } => job,
        }
    }
}
