//! The job file: sections as data ([`JobSpec`]), parsing with helpful errors, validation of relations between keys.
//!
//! In: TOML text ([`JobFile::parse`]), then a base model where the file names one ([`JobFile::into_spec`]). Out: a
//! [`JobSpec`] that needs no further checking against itself, or every violation found, each with the key it is
//! about.
//!
//! Invariants
//! - TY-3 A key that is not in [`keys::KEYS`] is refused, with the nearest known key named.
//! - TY-4 A [`JobSpec`] has passed [`JobSpec::validate`]; it serialises to JSON and back to an equal value.
//!
//! Deliberately absent: reading files (config.json, data). The caller does that and hands the result in.

mod checkpoint;
mod error;
pub mod keys;
mod parse;
mod recovery;
mod sections;
mod validate;
mod validate_recovery;

pub use checkpoint::{ByteSize, Cadence, CheckpointSpec, is_checkpoint_url};
pub use error::{SpecError, Violation};
pub use parse::JobFile;
pub use recovery::{Moments, ParitySpec, RecoverySource, RecoverySpec, Weighting};
pub use sections::{
    Auto, DataFormat, DataSpec, Dtype, EvaluationSpec, JobSection, JobSpec, LrKind, LrScheduleSpec, Numerics,
    OptimizerSpec, ParallelismSpec, Recompute, TrainingSpec, TransportKind,
};
