//! What the API tells about jobs, workers and the cluster, as values.
//!
//! The coordinator fills them in, a client reads them out; both serialise the same way for `-o json`.

use rekindle_types::{
    DeviceId, Epoch, Failure, FailureClass, JobId, JobSpec, JobState, Plan, RankId, Rebuilt, StartPoint,
    StateDigest, StepReport, WorkerId,
};
use serde::Serialize;

/// A job as the coordinator sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobStatus {
    /// Its id; none: it was only checked.
    pub job: Option<JobId>,
    /// `job.name` of the job file.
    pub name: String,
    /// Where it stands.
    pub state: JobState,
    /// One sentence about the state; may be empty.
    pub state_message: String,
    /// Rises with every change of a job.
    pub resource_version: u64,
    /// Steps the job is to make.
    pub total_steps: u64,
    /// When it was submitted, milliseconds since the Unix epoch.
    pub created_unix_ms: u64,
    /// When its first plan was made.
    pub started_unix_ms: Option<u64>,
    /// When it ended.
    pub ended_unix_ms: Option<u64>,
    /// The run's folder.
    pub output: String,
    /// Why it ended badly.
    pub failure: Option<Failure>,
    /// Who does what.
    pub plan: Option<Plan>,
    /// The plan's ranks.
    pub ranks: Vec<RankStatus>,
    /// The last committed step known.
    pub last_step: Option<StepReport>,
    /// How its state is being saved; none: it isn't.
    pub checkpoints: Option<CheckpointStatus>,
    /// The state its trainers started from; none: its first weights.
    pub start: Option<StartPoint>,
    /// Restarts since the newest checkpoint.
    pub restarts: u32,
    /// How often it may be restarted, and what of that is used up.
    pub restart_budgets: Vec<RestartBudget>,
    /// Layers whose state was made up by approximate recoveries, in pipeline order; empty: the state is exact.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rebuilt: Vec<Rebuilt>,
    /// The resolved job, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<Box<JobSpec>>,
}

impl JobStatus {
    /// The newest plan's epoch; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.plan.as_ref().map(|plan| plan.epoch).unwrap_or_default()
    }

    /// The last committed step known; 0: none.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.last_step.as_ref().map_or(0, |step| step.step)
    }
}

/// A bound on restarts without lasting progress in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RestartBudget {
    /// The class of failures it is for; none: any.
    pub class: Option<FailureClass>,
    /// Restarts so far.
    pub used: u32,
    /// One more loss after so many fails the job.
    pub most: u32,
}

/// How a job's state is being saved.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CheckpointStatus {
    /// The newest committed checkpoint.
    pub newest: Option<Checkpoint>,
    /// Checkpoints that failed since then.
    pub failures: u32,
    /// Why the last of them failed.
    pub last_failure: Option<String>,
    /// Steps between checkpoints; none: with `every = "auto"`, not known yet.
    pub interval_steps: Option<u64>,
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checkpoint {
    /// The step whose state it is.
    pub step: u64,
    /// URL of its folder.
    pub url: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Digest of the state, as the run reports it for that step.
    pub state_digest: StateDigest,
}

/// How far a rank is, as the coordinator knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RankPhase {
    /// Told to start, or not heard of yet.
    Starting,
    /// It listens for its peers.
    Ready,
    /// Told to connect and train.
    Training,
    /// Through.
    Finished,
    /// Its process ended.
    Ended,
}

/// A rank of a job's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RankStatus {
    /// The rank.
    pub rank: RankId,
    /// Its worker.
    pub worker: WorkerId,
    /// How far it is.
    pub phase: RankPhase,
    /// Where it listens, once it does.
    pub data_address: Option<String>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerStatus {
    /// Its name.
    pub worker: WorkerId,
    /// Tells this process from others of the name.
    pub incarnation: u64,
    /// Whether it has a session now.
    pub connected: bool,
    /// Version of its binary.
    pub version: String,
    /// Host its trainers are reached at.
    pub data_host: String,
    /// Processor threads a trainer may use.
    pub threads: u32,
    /// What its trainers compute on.
    pub device: DeviceId,
    /// Trainers it may run.
    pub slots: u32,
    /// Trainers it runs or is told to run.
    pub used_slots: u32,
    /// Memory of its machine, bytes; 0: unknown.
    pub memory_bytes: u64,
    /// When it was last heard of.
    pub last_seen_unix_ms: Option<u64>,
}

/// What a coordinator is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// Version of its binary.
    pub version: String,
    /// Revision of the API.
    pub api_revision: u32,
    /// When it started, milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// Workers that are connected now.
    pub connected_workers: u32,
    /// Jobs that haven't ended.
    pub active_jobs: u32,
}
