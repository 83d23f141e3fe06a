//! The vocabulary of Rekindle: identifiers, the job specification and its validation, plans as data, states and
//! reasons.
//!
//! In: nothing but values. Out: nothing but values. Pure: no clock, no randomness, no IO, no async.
//!
//! Invariants
//! - TY-1 A value that was constructed through its checked constructor (or parsed) is valid; nobody re-checks it.
//! - TY-2 Everything that is compared or hashed across processes has one canonical form.
//!
//! Deliberately absent: algorithms (see `rekindle-plan`) and wire formats (see `rekindle-proto`).

pub mod checkpoint;
pub mod clock;
pub mod device;
pub mod digest;
pub mod fault;
pub mod ids;
pub mod incident;
pub mod model;
pub mod parity;
pub mod plan;
pub mod refill;
pub mod session;
pub mod shard;
pub mod spec;
pub mod status;
pub mod watermark;
mod xxh3;

pub use checkpoint::{CheckpointPart, FileEntry, Section, StartPoint};
pub use clock::{Clock, Mono};
pub use device::{DeviceId, DeviceIdError};
pub use digest::{StateDigest, StateKind, layer_code};
pub use fault::{Fault, FaultKind, FaultOrder, FaultTarget};
pub use ids::{Epoch, IdError, JobId, Rank, RankId, WorkerId};
pub use incident::{
    CausalRole, Incident, IncidentDurations, IncidentState, IncidentTimes, NotedFailure, StateSource,
};
pub use model::{LayerId, LayerLayout, ModelConfig, ModelConfigError, Part, TensorSpec};
pub use parity::{Parities, ParitySet};
pub use plan::Plan;
pub use refill::{Origin, Rebuilt, Refill, Share, rebuilt_by, rebuilt_with};
pub use session::{
    Command, InMemory, NumberedReport, Registration, Report, StartTrainer, TrainerPhase, TrainerStatus,
};
pub use shard::{BLOCK, shard_range};
pub use spec::{Dtype, JobFile, JobSpec, Numerics, Recompute, SpecError, TransportKind, Violation};
pub use status::{Failure, FailureClass, JobEvent, JobState, StepReport};
pub use watermark::{Wait, Watermark};
