//! What the coordinator's journal holds.

use std::collections::BTreeMap;
use std::fmt;

use rekindle_types::{
    Epoch, Failure, JobId, JobSpec, JobState, Plan, RankId, Rebuilt, Refill, StartPoint, StateDigest,
    StepReport, WorkerId,
};
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

/// A checkpoint whose manifest is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommittedCheckpoint {
    /// The step whose state it is.
    pub step: u64,
    /// URL of its folder.
    pub url: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Digest of the state, as the run reports it for that step.
    pub state_digest: StateDigest,
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
        /// Whether it is to go on from the newest valid checkpoint in its place.
        #[serde(default)]
        resume: bool,
    },
    /// Who does what: the job starts.
    Planned {
        /// The plan, with its epoch.
        plan: Plan,
        /// The incarnation of each of its workers. A worker that comes back with another one has lost its trainers.
        members: BTreeMap<WorkerId, u64>,
        /// Names this epoch's trainers in the keys of checkpoint files.
        #[serde(default)]
        writer: String,
        /// The state they go on from; none: the job's first weights.
        #[serde(default)]
        start: Option<StartPoint>,
    },
    /// All trainers are ready and are told whom to connect to and what to start from.
    Connected {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
        /// The step whose state all of them have in their workers' memory; none: they start from the plan's start.
        local: Option<u64>,
        /// Ranks that have it not in their own worker's memory, and where they get it from.
        #[serde(default, alias = "guards")]
        refills: BTreeMap<RankId, Refill>,
        /// Layers whose state was made up, now or before.
        #[serde(default)]
        rebuilt: Vec<Rebuilt>,
        /// Whether they are to save that state first.
        save: bool,
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
        /// The worker that reported it; none: the coordinator saw it itself.
        #[serde(default)]
        seen_by: Option<WorkerId>,
    },
    /// A checkpoint is committed: its manifest is durable.
    CheckpointCommitted {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
        /// Which, and what it is like.
        checkpoint: CommittedCheckpoint,
    },
    /// A checkpoint couldn't be made durable; the job goes on.
    CheckpointFailed {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
        /// The step whose state is not saved.
        step: u64,
        /// Why.
        message: String,
    },
    /// A part of the job was lost: its trainers are halted or stopped, and it waits for workers to go on with.
    Requeued {
        /// The job.
        job: JobId,
        /// The epoch that ends.
        epoch: Epoch,
        /// What was lost.
        failure: Failure,
        /// A checkpoint that turned out to be damaged and isn't to be tried again.
        refused: Option<String>,
        /// The last step that the epoch had committed, as far as known.
        #[serde(default)]
        last_step: Option<u64>,
        /// Norms of the stages' gradients in that step; empty: not known, or not asked for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        stage_norms: Vec<f64>,
    },
    /// All trainers of a job that lost a part hold their state and were told to connect.
    Reloaded {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
    },
    /// A job that lost a part has gone on.
    IncidentClosed {
        /// The job.
        job: JobId,
        /// Which of its incidents.
        number: u64,
        /// One sentence: what was lost, where the state came from, how long it took.
        summary: String,
    },
    /// The job is to end on the user's wish.
    CancelRequested {
        /// The job.
        job: JobId,
        /// Whether its state is saved first.
        #[serde(default)]
        save: bool,
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
            | Self::Connected { job, .. }
            | Self::Running { job, .. }
            | Self::RankFinished { job, .. }
            | Self::FailureNoted { job, .. }
            | Self::CheckpointCommitted { job, .. }
            | Self::CheckpointFailed { job, .. }
            | Self::Requeued { job, .. }
            | Self::Reloaded { job, .. }
            | Self::IncidentClosed { job, .. }
            | Self::CancelRequested { job, .. }
            | Self::Ended { job, .. }
            | Self::Noted { job, .. } => job,
        }
    }
}
