//! What queries return: plain copies, of durable state only (CO-1) plus the progress that isn't journalled.

use rekindle_types::{
    DeviceId, Epoch, Failure, JobId, JobSpec, JobState, Plan, RankId, Rebuilt, StartPoint, StepReport,
    WorkerId,
};

use crate::{Budget, CommittedCheckpoint, Millis};

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// Its id.
    pub job: JobId,
    /// The request that made it; empty: none.
    pub request_id: String,
    /// What it runs.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: JobState,
    /// Why it is there, one sentence ("waits for 4 trainer slots, 2 are free").
    pub reason: String,
    /// Epoch of the newest plan; 0 before the first.
    pub epoch: Epoch,
    /// The newest plan.
    pub plan: Option<Plan>,
    /// Its ranks, while it has a plan.
    pub ranks: Vec<RankView>,
    /// When it was submitted.
    pub submitted_at: Millis,
    /// When its first plan was made.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// The last committed step known. After a restart none, until the next report.
    pub last_step: Option<StepReport>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The state its trainers started from.
    pub start: Option<StartPoint>,
    /// Its newest committed checkpoint.
    pub checkpoint: Option<CommittedCheckpoint>,
    /// Checkpoints that failed since then.
    pub failed_saves: u32,
    /// Why the last of these failed.
    pub save_failure: Option<String>,
    /// Steps between checkpoints: as the job file says, or as rank 0 reckons; None: none are saved, or it isn't known
    /// yet.
    pub save_interval: Option<u64>,
    /// Restarts since the newest checkpoint.
    pub restarts: u32,
    /// How often it may be restarted, and what of that is used up.
    pub budgets: Vec<Budget>,
    /// Layers whose state was made up: it is approximate since. Empty: it is exact.
    pub rebuilt: Vec<Rebuilt>,
}

/// How far a rank is, as the coordinator knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RankPhase {
    /// Told to start, or (after a restart) not heard of yet.
    Starting,
    /// It listens for its peers.
    Ready,
    /// Told to connect and train.
    Training,
    /// Through.
    Finished,
    /// Its process ended (badly, or because it was told to).
    Ended,
}

/// A rank of a job's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankView {
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Its name.
    pub worker: WorkerId,
    /// Tells this process from others of the name.
    pub incarnation: u64,
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
    pub used: u32,
    /// Memory of its machine in bytes; 0: unknown.
    pub memory_bytes: u64,
    /// Whether it is connected now.
    pub connected: bool,
    /// Milliseconds since it was heard of.
    pub silent_ms: Millis,
}

/// Counters since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Reports of an older epoch, an ended job or a rank that isn't the worker's.
    pub stale_reports: u64,
    /// Reports that had been handled before.
    pub repeated_reports: u64,
    /// Messages through a connection that isn't a worker's current one.
    pub stale_sessions: u64,
    /// Step reports that weren't newer than the last.
    pub repeated_steps: u64,
    /// Workers lost.
    pub workers_lost: u64,
}
