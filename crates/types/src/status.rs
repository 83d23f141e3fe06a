//! States, failure classes and what is said about a job while it runs.

use serde::{Deserialize, Serialize};

use crate::{Epoch, JobId, RankId, WorkerId};

macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name used on every surface.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(crate) use named_enum;

named_enum! {
    /// Where a job stands.
    JobState {
        /// Accepted; waits for workers.
        Queued = "QUEUED",
        /// A plan is being made durable.
        Planning = "PLANNING",
        /// Trainers start, load their state and connect.
        Starting = "STARTING",
        /// Steps are being committed.
        Running = "RUNNING",
        /// A part of it was lost; it waits for workers to go on with from a checkpoint.
        Recovering = "RECOVERING",
        /// Trainers are being stopped on the user's wish.
        Cancelling = "CANCELLING",
        /// All steps committed, model exported.
        Succeeded = "SUCCEEDED",
        /// Ended with a reason.
        Failed = "FAILED",
        /// Ended on the user's wish.
        Cancelled = "CANCELLED",
    }
}

impl JobState {
    /// Whether the job will never change its state again.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

named_enum! {
    /// What kind of thing went wrong.
    FailureClass {
        /// A trainer process ended by itself.
        WorkerCrash = "WORKER_CRASH",
        /// A worker stopped being heard of.
        WorkerLost = "WORKER_LOST",
        /// No progress within the bound.
        Hang = "HANG",
        /// Input data is missing or unusable.
        DataError = "DATA_ERROR",
        /// The loss or a gradient is not a finite number.
        NumericNan = "NUMERIC_NAN",
        /// The job can't run as specified.
        ConfigInvalid = "CONFIG_INVALID",
        /// A peer couldn't be reached or broke the protocol.
        Network = "NETWORK",
        /// The run's folder couldn't be written.
        OutputError = "OUTPUT_ERROR",
        /// Checkpoints can't be written.
        CheckpointIo = "CHECKPOINT_IO",
        /// A checkpoint that was to be loaded is damaged.
        CheckpointCorrupt = "CHECKPOINT_CORRUPT",
        /// A trainer needs more memory than its device has left.
        OomDevice = "OOM_DEVICE",
        /// A CUDA device failed: its memory, its links, its driver.
        GpuXid = "GPU_XID",
        /// A defect of Rekindle.
        Internal = "INTERNAL",
    }
}

impl FailureClass {
    /// Whether starting again may mend it; the others would only come again.
    #[must_use]
    pub fn may_pass(self) -> bool {
        matches!(
            self,
            Self::WorkerCrash
                | Self::WorkerLost
                | Self::Hang
                | Self::Network
                | Self::CheckpointCorrupt
                | Self::GpuXid
        )
    }

    /// Whether it says something of the device at which it began: another one is to be preferred from then on.
    #[must_use]
    pub fn blames_device(self) -> bool {
        self == Self::GpuXid
    }
}

/// Why a job or a trainer ended badly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The class.
    pub class: FailureClass,
    /// The rank it began at, when known.
    pub rank: Option<RankId>,
    /// The worker it began at, when known.
    pub worker: Option<WorkerId>,
    /// One or two sentences for a person: what happened, what to do.
    pub message: String,
}

/// What one committed step was like. One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepReport {
    /// 1-based number of the committed step.
    pub step: u64,
    /// Mean cross-entropy over the step's tokens, nats.
    pub loss: f64,
    /// Norm of the mean gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate used.
    pub lr: f64,
    /// Tokens learnt from, this step.
    pub tokens: u64,
    /// Wall time since the commit before, seconds.
    pub step_seconds: f64,
    /// The epoch that committed it.
    pub epoch: Epoch,
    /// Digest of the tokens consumed, 32 hex digits.
    pub data_digest: String,
    /// Digest of weights and moments after the step, 32 hex digits, on digest steps and at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_digest: Option<String>,
    /// Mean cross-entropy on held-out data after the step, nats, on evaluation steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Norm of the mean gradient of each pipeline stage before clipping, where the job may recover by
    /// `neighbour_average`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stage_norms: Vec<f64>,
}

/// One line of `events.jsonl`: time, actor, target, verb, detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobEvent {
    /// Position in the job's history, from 1.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub time_unix_ms: u64,
    /// The job.
    pub job: JobId,
    /// `coordinator`, `worker/NAME`, `client`.
    pub actor: String,
    /// For instance `job.submitted`, `plan.durable`, `trainer.ready`, `job.failed`.
    pub kind: String,
    /// One sentence for a person.
    pub detail: String,
}
