//! Errors of the API: one type on both sides of the wire.

mod reason;
mod status;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rekindle_types::{SpecError, Violation};
use tonic::Code;

use crate::ConvertError;
pub use reason::Reason;

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "rekindle.dev";

/// Something an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// What it is: `job` or `worker`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Why a call wasn't done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The canonical code.
    pub code: Code,
    /// The reason; none when the other side doesn't speak our API (a proxy, or the transport itself).
    pub reason: Option<Reason>,
    /// One or two sentences for a person: what is wrong, what to do.
    pub message: String,
    /// Named facts, for programs.
    pub metadata: BTreeMap<String, String>,
    /// What is wrong with the request, field by field.
    pub violations: Vec<Violation>,
    /// What the error is about.
    pub resource: Option<Box<Resource>>,
    /// When a retry may help.
    pub retry_after: Option<Duration>,
}

impl std::error::Error for ApiError {}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        // The message of an invalid job names the violations only by their number.
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        Ok(())
    }
}

impl ApiError {
    /// An error of `reason`, with the code that goes with it.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code: reason.code(),
            reason: Some(reason),
            message: message.into(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            resource: None,
            retry_after: reason.retry_after(),
        }
    }

    /// There is no `kind` named `name`.
    #[must_use]
    pub fn not_found(reason: Reason, kind: &str, name: &str) -> Self {
        Self {
            message: format!("there is no {kind} {name:?}"),
            ..Self::new(reason, "").about(kind, name)
        }
    }

    /// A request with violations.
    #[must_use]
    pub fn invalid(reason: Reason, what: &str, violations: Vec<Violation>) -> Self {
        let things = match violations.len() {
            1 => "one problem".to_owned(),
            n => format!("{n} problems"),
        };
        Self {
            violations,
            ..Self::new(reason, format!("{what} has {things}"))
        }
    }

    /// The same error with a named fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// The same error about a resource.
    #[must_use]
    pub fn about(mut self, kind: &str, name: impl Into<String>) -> Self {
        self.resource = Some(Box::new(Resource {
            kind: kind.to_owned(),
            name: name.into(),
        }));
        self
    }

    /// Whether the same call may be made again as it is.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::ResourceExhausted)
    }
}

impl From<SpecError> for ApiError {
    fn from(error: SpecError) -> Self {
        Self::invalid(Reason::JobInvalid, "the job", error.violations)
    }
}

impl From<ConvertError> for ApiError {
    fn from(error: ConvertError) -> Self {
        let violation = Violation::new(error.field, error.why);
        Self::invalid(Reason::RequestInvalid, "the request", vec![violation])
    }
}
