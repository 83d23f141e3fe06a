//! Everything that is wrong with a job file, key by key.

use std::fmt;

/// One thing wrong with a job file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The key at fault, for instance `training.micro_batch`.
    pub field: String,
    /// What is wrong and what to do.
    pub description: String,
}

impl Violation {
    /// A violation of `field`.
    #[must_use]
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            description: description.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.description)
    }
}

/// A job file that can't be used; holds at least one violation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", summary(.violations))]
pub struct SpecError {
    /// All that is wrong, in the order found.
    pub violations: Vec<Violation>,
}

impl SpecError {
    /// An error of one violation.
    #[must_use]
    pub fn one(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            violations: vec![Violation::new(field, description)],
        }
    }
}

fn summary(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
