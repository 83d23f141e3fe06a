//! Job specifications: JSON of a resolved one, and what a client may submit.

use rekindle_types::{JobFile, JobSpec, SpecError};

use crate::pb::v1 as pb;
use crate::{ConvertError, MAX_SPEC_BYTES};

/// What a client submitted, checked as far as is possible without looking at files.
#[derive(Debug, Clone, PartialEq)]
pub enum SpecSource {
    /// A job file whose model section may still refer to files.
    File(Box<JobFile>),
    /// A resolved job.
    Resolved(Box<JobSpec>),
}

impl TryFrom<pb::JobSpec> for SpecSource {
    type Error = SpecError;

    fn try_from(spec: pb::JobSpec) -> Result<Self, SpecError> {
        match spec.format {
            None => Err(SpecError::one("spec", "is not set; give toml or json")),
            Some(pb::job_spec::Format::Toml(text)) => {
                bounded("spec.toml", &text)?;
                Ok(Self::File(Box::new(JobFile::parse(&text)?)))
            }
            Some(pb::job_spec::Format::Json(text)) => Ok(Self::Resolved(Box::new(spec_from_json(&text)?))),
        }
    }
}

fn bounded(field: &str, text: &str) -> Result<(), SpecError> {
    if text.len() > MAX_SPEC_BYTES {
        let why = format!("is {} bytes long; at most {MAX_SPEC_BYTES} are taken", text.len());
        return Err(SpecError::one(field, why));
    }
    Ok(())
}

/// Reads and validates a resolved job.
///
/// # Errors
/// Every violation found, or that the text isn't a resolved job.
pub fn spec_from_json(text: &str) -> Result<JobSpec, SpecError> {
    bounded("spec.json", text)?;
    let spec: JobSpec = serde_json::from_str(text)
        .map_err(|e| SpecError::one("spec.json", format!("is no resolved job: {e}")))?;
    spec.validate()?;
    Ok(spec)
}

/// The resolved job as JSON.
#[must_use]
pub fn spec_to_json(spec: &JobSpec) -> String {
    serde_json::to_string(spec).expect("a job spec has text keys and finite numbers only")
}

/// Like [`spec_from_json`], for a message whose sender is a program.
pub(super) fn decode(field: &str, text: &str) -> Result<JobSpec, ConvertError> {
    spec_from_json(text).map_err(|e| ConvertError::new(field, e.to_string()))
}
