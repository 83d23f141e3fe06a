//! Conversions between messages and `rekindle-types`.
//!
//! `From<&types::X> for pb::X` encodes, `TryFrom<pb::X> for types::X` decodes and checks.

mod fault;
mod incident;
mod job;
mod origin;
mod parity;
mod plan;
mod session;
mod spec;
mod time;
mod view;

pub use fault::{order_from_pb, order_to_pb};
pub use session::command_to_pb;
pub use spec::{SpecSource, spec_from_json, spec_to_json};
pub use time::{duration_from_ms, duration_to_ms, from_unix_ms, to_unix_ms};

use rekindle_types::{DeviceId, DeviceIdError, Epoch, IdError, JobId, WorkerId};

/// A message that can't be what its sender meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct ConvertError {
    /// The field at fault, for instance `plan.epoch`.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl ConvertError {
    /// A fault of `field`.
    #[must_use]
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: why.into(),
        }
    }

    /// The same fault, seen from the message around `parent`.
    #[must_use]
    pub fn inside(self, parent: &str) -> Self {
        Self {
            field: format!("{parent}.{}", self.field),
            why: self.why,
        }
    }
}

/// The value of a message field that must be set.
fn required<T>(field: &str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or_else(|| ConvertError::new(field, "is not set"))
}

/// Reads a job id.
///
/// # Errors
/// [`ConvertError`] naming `job_id`.
pub fn job_id(text: &str) -> Result<JobId, ConvertError> {
    JobId::new(text).map_err(|e: IdError| ConvertError::new("job_id", e.to_string()))
}

/// Reads a worker id.
///
/// # Errors
/// [`ConvertError`] naming `worker_id`.
pub fn worker_id(text: &str) -> Result<WorkerId, ConvertError> {
    WorkerId::new(text).map_err(|e: IdError| ConvertError::new("worker_id", e.to_string()))
}

/// What a worker computes on; one that doesn't say computes on its processor.
fn device(text: &str) -> Result<DeviceId, ConvertError> {
    match text {
        "" => Ok(DeviceId::Cpu),
        text => text
            .parse()
            .map_err(|e: DeviceIdError| ConvertError::new("device", e.to_string())),
    }
}

fn epoch(number: u64) -> Epoch {
    Epoch(number)
}

/// An empty text stands for none.
fn optional(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
