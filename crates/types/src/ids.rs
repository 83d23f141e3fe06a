//! Identifiers and the epoch.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not usable: {why}")]
pub struct IdError {
    /// Which kind of identifier was wanted.
    pub what: &'static str,
    /// The offending text (shortened to 80 characters).
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

const MAX_ID_BYTES: usize = 63;

fn check(what: &'static str, text: &str) -> Result<(), IdError> {
    let fail = |why| {
        Err(IdError {
            what,
            text: text.chars().take(80).collect(),
            why,
        })
    };
    if text.is_empty() {
        return fail("it is empty");
    }
    if text.len() > MAX_ID_BYTES {
        return fail("it is longer than 63 bytes");
    }
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_' || c == '.';
    if !text.chars().all(good) {
        return fail("use lower-case letters, digits, '-', '_' and '.' only");
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return fail("start it with a letter or a digit");
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps `text`: 1 to 63 bytes of `[a-z0-9._-]`, first one a letter or a digit.
            ///
            /// # Errors
            /// [`IdError`] saying what is wrong.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check($what, &text)?;
                Ok(Self(text))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

text_id!(
    /// Names one training run.
    JobId,
    "job id"
);
text_id!(
    /// Names one worker (the agent process on a machine).
    WorkerId,
    "worker id"
);

/// A number that rises with every plan that has been made durable. Whoever sees an older one drops it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// A trainer's dense index inside its plan: `lane * stages + stage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RankId(pub u32);

impl fmt::Display for RankId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}", self.0)
    }
}

/// Where a trainer stands: which data-parallel copy of the pipeline, which stage of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rank {
    /// The data-parallel copy.
    pub lane: u32,
    /// The stage, 0 holds the embedding.
    pub stage: u32,
}

impl Rank {
    /// The dense index of this rank among `stages * lanes`.
    #[must_use]
    pub fn id(self, stages: u32) -> RankId {
        RankId(self.lane * stages + self.stage)
    }

    /// The inverse of [`Rank::id`]. `stages` is at least 1.
    #[must_use]
    pub fn of(id: RankId, stages: u32) -> Self {
        Self {
            lane: id.0 / stages,
            stage: id.0 % stages,
        }
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {} stage {}", self.lane, self.stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_what_is_wrong() {
        assert!(JobId::new("demo-1.a_b").is_ok());
        for (text, why) in [
            ("", "empty"),
            ("A", "lower-case"),
            ("-a", "start"),
            (&"x".repeat(64), "63 bytes"),
        ] {
            let error = JobId::new(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn rank_and_id_are_inverse() {
        for stages in 1..5 {
            for lane in 0..3 {
                for stage in 0..stages {
                    let rank = Rank { lane, stage };
                    assert_eq!(Rank::of(rank.id(stages), stages), rank);
                }
            }
        }
    }
}
