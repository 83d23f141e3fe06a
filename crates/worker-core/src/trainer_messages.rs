//! What a worker and its trainer processes say to each other: one JSON value a line, over the child's stdin and stdout.
//!
//! ```text
//!   worker -> trainer   Begin, then Connect, now and then Save, at last perhaps Stop; Halt and then Edit, Connect for another epoch
//!   trainer -> worker   Ready, then Step (rank 0) and Progress (the others), Saved, SaveFailed, WaitsForStorage, at last Finished or Failed;
//!                       Watermark whenever a step takes long; Halted, then Ready again, for another epoch
//! ```
//!
//! The end of stdin means the worker is gone: the trainer ends as if told to stop. A line is at most [`MAX_LINE`]
//! bytes.

use std::collections::BTreeMap;

use rekindle_types::{
    CheckpointPart, DeviceId, Failure, InMemory, Origin, RankId, StartTrainer, StepReport, Watermark,
};
use serde::{Deserialize, Serialize};

/// The longest line either side accepts, bytes.
pub const MAX_LINE: usize = 4 << 20;

/// From the worker to its trainer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToTrainer {
    /// What to be; the first message. The trainer looks for its state, listens, and says `Ready`.
    Begin {
        /// Rank, job and plan.
        start: Box<StartTrainer>,
        /// Host to listen on and to be reached at.
        listen_host: String,
        /// Processor threads to use.
        threads: u32,
        /// What to compute on.
        #[serde(default)]
        device: DeviceId,
        /// The worker's folder for state in shared memory, if it has one.
        vault: Option<String>,
    },
    /// All trainers of the epoch are ready: load the state, connect and train.
    Connect {
        /// Where each rank listens, `host:port`.
        peers: BTreeMap<RankId, String>,
        /// What they start from.
        from: Origin,
    },
    /// Save the state after the step in flight, whatever the cadence says.
    Save,
    /// The epoch is over: give it up, say `Halted`, and wait. One that isn't at its steps yet ends as if told to stop.
    Halt,
    /// What to be in the next epoch, after `Halted`: the same rank, layers and job. The trainer keeps its process,
    /// text, endpoint and connections, looks for its state, and says `Ready`.
    Edit {
        /// Rank, job and plan.
        start: Box<StartTrainer>,
    },
    /// End now, without exporting; exit with status 0.
    Stop,
}

/// From a trainer to its worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromTrainer {
    /// It listens at this address.
    Ready {
        /// `host:port`.
        data_address: String,
        /// Whose state is in the worker's memory.
        in_memory: InMemory,
    },
    /// A step was committed (rank 0 says so).
    Step(StepReport),
    /// The last step this rank committed (every rank may say so).
    Progress {
        /// 1-based step.
        step: u64,
    },
    /// Its part of a checkpoint is durable.
    Saved {
        /// The files.
        part: Box<CheckpointPart>,
        /// With `every = "auto"`, from rank 0: steps from this checkpoint to the next.
        interval: Option<u64>,
    },
    /// Its part of a checkpoint couldn't be made durable; training goes on.
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
    /// It hasn't committed a step for a while: how far it is, whom it waits for.
    Watermark(Watermark),
    /// It gave its epoch up and waits for `Edit` or `Stop`.
    Halted {
        /// What it met, or that it was told to.
        failure: Failure,
    },
    /// Last step committed, its part of the model is exported; it exits with status 0 by itself.
    Finished,
    /// It can't go on; it exits with a status other than 0 by itself.
    Failed(Failure),
}
