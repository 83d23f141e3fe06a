//! What a coordinator and its workers say to each other, as values; `rekindle-proto` puts them on the wire.
//!
//! ```text
//!   worker -> coordinator   Registration, then numbered Reports (kept by the worker until acknowledged)
//!   coordinator -> worker   Commands; each carries (job, epoch), an older epoch is dropped
//! ```
//!
//! Invariants
//! - TY-5 Reports of one incarnation of a worker carry rising numbers; a report seen twice has no second effect.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    CheckpointPart, DeviceId, Epoch, Failure, JobId, JobSpec, Origin, ParitySet, Plan, RankId, StartPoint,
    StepReport, Watermark, WorkerId,
};

/// What a worker says when it (re)connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The worker's name.
    pub worker: WorkerId,
    /// Drawn anew at every start of the worker process; tells a restarted worker from a reconnected one.
    pub incarnation: u64,
    /// Version of the worker's binary.
    pub version: String,
    /// Host that other trainers reach this worker's trainers at.
    pub data_host: String,
    /// Processor threads a trainer may use.
    pub threads: u32,
    /// What its trainers compute on.
    #[serde(default)]
    pub device: DeviceId,
    /// Trainers this worker may run at once.
    pub slots: u32,
    /// Memory of the machine, bytes; 0 when unknown.
    pub memory_bytes: u64,
    /// Trainers that are alive now.
    pub trainers: Vec<TrainerStatus>,
    /// Jobs whose state lies in this machine's memory since before the worker process was started.
    pub kept: Vec<JobId>,
}

/// A living trainer, as its worker sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainerStatus {
    /// The job.
    pub job: JobId,
    /// The epoch it was started or last moved to.
    pub epoch: Epoch,
    /// Its rank.
    pub rank: RankId,
    /// How far it is.
    pub phase: TrainerPhase,
    /// Where it listens for its peers, once it does.
    pub data_address: Option<String>,
    /// The last step it committed.
    pub step: u64,
    /// As in [`Report::Ready`].
    pub in_memory: InMemory,
}

/// What a trainer found in its worker's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InMemory {
    /// Steps whose state a trainer of its own rank left there: two at most.
    pub own: Vec<u64>,
    /// The same of other ranks, which a trainer there guarded.
    #[serde(default)]
    pub guarded: BTreeMap<RankId, Vec<u64>>,
    /// Sets of its own rank, newest first: [`InMemory::MOST_SETS`] at most.
    #[serde(default)]
    pub parity: Vec<ParitySet>,
}

impl InMemory {
    /// Two of each of the last epochs.
    pub const MOST_SETS: usize = 8;

    /// Nothing but a trainer's own.
    #[must_use]
    pub fn own(steps: &[u64]) -> Self {
        Self {
            own: steps.to_vec(),
            ..Self::default()
        }
    }
}

/// How far a trainer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TrainerPhase {
    /// The process was started and loads its state.
    Loading,
    /// It listens for its peers.
    Ready,
    /// It connects or trains.
    Training,
}

/// From the coordinator to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Start a trainer, or have one that halted and is of the same shape go over to the plan.
    Start(Box<StartTrainer>),
    /// All trainers of the epoch are ready: connect and train.
    Connect {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
        /// Where each rank listens.
        peers: BTreeMap<RankId, String>,
        /// What they start from.
        from: Origin,
    },
    /// The epoch is over: its trainers that train give it up and wait for the next one ([`Report::Halted`], then a
    /// `Start` of a newer epoch or a `Stop`). Those that can't are ended.
    Halt {
        /// The job.
        job: JobId,
        /// The newest epoch that is over.
        epoch: Epoch,
        /// Why, for the logs.
        reason: String,
    },
    /// End all trainers of the job up to and including this epoch.
    Stop {
        /// The job.
        job: JobId,
        /// The newest epoch to end.
        epoch: Epoch,
        /// Why, for the logs.
        reason: String,
    },
    /// Save the state after the step in flight, whatever the cadence says.
    Save {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
        /// The rank that is told; the others hear of it at the next commit.
        rank: RankId,
    },
    /// The job has ended: what is kept in memory for it can go.
    Forget {
        /// The job.
        job: JobId,
    },
    /// Reports up to this number were taken over.
    Acknowledge {
        /// The number.
        up_to: u64,
    },
}

/// Everything a trainer needs to know before it meets its peers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartTrainer {
    /// Whom to start.
    pub rank: RankId,
    /// The job.
    pub spec: JobSpec,
    /// Who does what.
    pub plan: Plan,
    /// Names this epoch's trainers in the keys of checkpoint files, so that those of another epoch can't touch them.
    pub writer: String,
    /// The state to go on from; none: the job's first weights.
    pub start: Option<StartPoint>,
    /// Mean time between failures as known now, seconds: for `every = "auto"`.
    pub mtbf_seconds: f64,
    /// The newest step that an epoch before was heard to commit; of it and those before it the coordinator has the
    /// lines. None: it knows of none.
    #[serde(default)]
    pub heard: Option<u64>,
}

/// From a worker to the coordinator, numbered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumberedReport {
    /// Rises by one with every report of the worker's incarnation, from 1.
    pub number: u64,
    /// The job.
    pub job: JobId,
    /// The epoch of the trainer it is about.
    pub epoch: Epoch,
    /// The trainer it is about.
    pub rank: RankId,
    /// What happened.
    pub report: Report,
}

/// What happened to a trainer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// It listens at this address.
    Ready {
        /// `host:port`.
        data_address: String,
        /// Whose state is in the worker's memory.
        in_memory: InMemory,
    },
    /// It committed a step. Sent by rank 0 only.
    Step(StepReport),
    /// Its part of a checkpoint is durable. Acknowledged when the checkpoint is committed or given up.
    Saved {
        /// The files.
        part: Box<CheckpointPart>,
        /// With `every = "auto"`: steps from this checkpoint to the next, as rank 0 reckons.
        interval: Option<u64>,
    },
    /// Its part of a checkpoint couldn't be made durable.
    SaveFailed {
        /// The step.
        step: u64,
        /// What went wrong and what to do.
        message: String,
    },
    /// It can't go on before the place of its checkpoints has taken what it was given; said now and then while that
    /// lasts.
    WaitsForStorage {
        /// The step it is at.
        step: u64,
    },
    /// How far it is in a step that takes long. Only the newest counts.
    Watermark(Watermark),
    /// It committed the last step, its part of the model is exported.
    Finished,
    /// It ended badly.
    Failed(Failure),
    /// It ended because it was told to.
    Stopped,
    /// It gave its epoch up and waits for the next one, with what it has in memory.
    Halted {
        /// What it met; none: it was told to.
        failure: Option<Failure>,
    },
}
