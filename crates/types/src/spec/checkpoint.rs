//! `[checkpoint]`: when state is saved, where to, and what may be kept of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::JobSpec;

/// How often state is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "serde_json::Value")]
pub enum Cadence {
    /// Never.
    #[default]
    Never,
    /// As often as pays (Young 1974, Daly 2006), from the measured cost of saving and the failure rate.
    Auto,
    /// Every so many steps, and after the last one.
    Steps(u64),
}

impl TryFrom<toml::Value> for Cadence {
    type Error = String;
    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) if text == "auto" => Ok(Self::Auto),
            toml::Value::Integer(0) => Ok(Self::Never),
            toml::Value::Integer(n) => u64::try_from(n)
                .map(Self::Steps)
                .map_err(|_| format!("{n} is negative; use a number of steps, 0 for never, or \"auto\"")),
            other => Err(format!("{other} is neither a number of steps nor \"auto\"")),
        }
    }
}

impl From<Cadence> for serde_json::Value {
    fn from(cadence: Cadence) -> Self {
        match cadence {
            Cadence::Never => 0.into(),
            Cadence::Auto => "auto".into(),
            Cadence::Steps(n) => n.into(),
        }
    }
}

/// A number of bytes: a whole number, or text such as `"256 MiB"`. Written in the largest unit that leaves no rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "String")]
pub struct ByteSize(pub u64);

const UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

impl TryFrom<toml::Value> for ByteSize {
    type Error = String;
    fn try_from(value: toml::Value) -> Result<Self, String> {
        let why = || format!("{value} is no size; write for instance \"256 MiB\" (B, KiB, MiB, GiB or TiB)");
        match &value {
            toml::Value::Integer(n) => u64::try_from(*n).map(Self).map_err(|_| why()),
            toml::Value::String(text) => parse_size(text).map(Self).ok_or_else(why),
            _ => Err(why()),
        }
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        let (unit, factor) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
        write!(f, "{} {unit}", self.0 / factor)
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> String {
        size.to_string()
    }
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSpec {
    /// How often state is saved.
    #[serde(default)]
    pub every: Cadence,
    /// Committed checkpoints kept besides pinned ones; at least 1.
    #[serde(default = "defaults::keep_last")]
    pub keep_last: u32,
    /// Memory a trainer may use for state that is still being written while the next updates go on.
    #[serde(default = "defaults::pool")]
    pub pool: ByteSize,
    /// Folder or object store URL; none: `checkpoints` in the run's folder.
    #[serde(default)]
    pub to: Option<String>,
    /// The job stops after so many failed checkpoints in a row; 0: never.
    #[serde(default)]
    pub max_failures: u32,
    /// A file that can't be written is tried again for so long, seconds, before its checkpoint is given up.
    #[serde(default = "defaults::retry_seconds")]
    pub retry_seconds: u32,
    /// With `every = "auto"`: hours between failures that are expected before any was seen.
    #[serde(default = "defaults::mtbf_hours")]
    pub mtbf_hours: f64,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        Self {
            every: Cadence::default(),
            keep_last: defaults::keep_last(),
            pool: defaults::pool(),
            to: None,
            max_failures: 0,
            retry_seconds: defaults::retry_seconds(),
            mtbf_hours: defaults::mtbf_hours(),
        }
    }
}

impl CheckpointSpec {
    /// Whether state is saved at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.every != Cadence::Never
    }
}

impl JobSpec {
    /// Where the job's checkpoints are: a folder or an object store URL.
    #[must_use]
    pub fn checkpoint_url(&self) -> String {
        match &self.checkpoint.to {
            Some(to) => to.clone(),
            None => format!("{}/checkpoints", self.job.output.trim_end_matches('/')),
        }
    }

    /// The checkpoint that `model.init_from` names: its last part is `step-` and digits. A Hugging Face folder isn't
    /// called so.
    #[must_use]
    pub fn init_checkpoint(&self) -> Option<&str> {
        self.init_from.as_deref().filter(|url| is_checkpoint_url(url))
    }
}

/// Whether a URL or path names the folder of one checkpoint, `…/step-00000050`.
#[must_use]
pub fn is_checkpoint_url(url: &str) -> bool {
    let name = url.trim_end_matches('/').rsplit('/').next().unwrap_or(url);
    let digits = name.strip_prefix("step-").unwrap_or("");
    digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit())
}

mod defaults {
    use super::ByteSize;

    pub(super) fn keep_last() -> u32 {
        3
    }
    pub(super) fn pool() -> ByteSize {
        ByteSize(256 << 20)
    }
    pub(super) fn retry_seconds() -> u32 {
        180
    }
    pub(super) fn mtbf_hours() -> f64 {
        24.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let size = |text: &str| ByteSize::try_from(toml::Value::String(text.to_owned()));
        assert_eq!(size("256 MiB"), Ok(ByteSize(256 << 20)));
        assert_eq!(size("1GiB"), Ok(ByteSize(1 << 30)));
        for bytes in [0, 5, 1 << 20, 3 << 29] {
            assert_eq!(size(&ByteSize(bytes).to_string()), Ok(ByteSize(bytes)));
        }
        assert_eq!(ByteSize::try_from(toml::Value::Integer(5)), Ok(ByteSize(5)));
        for bad in ["", "MiB", "256", "1 MB", "-1 MiB", "99999999999 TiB"] {
            assert!(size(bad).unwrap_err().contains("MiB"), "{bad}");
        }
    }

    #[test]
    fn cadences_are_numbers_or_auto() {
        assert_eq!(Cadence::try_from(toml::Value::Integer(0)), Ok(Cadence::Never));
        assert_eq!(
            Cadence::try_from(toml::Value::Integer(50)),
            Ok(Cadence::Steps(50))
        );
        assert!(Cadence::try_from(toml::Value::Integer(-1)).is_err());
        assert!(Cadence::try_from(toml::Value::String("often".to_owned())).is_err());
    }

    #[test]
    fn checkpoint_folders_are_told_from_model_folders() {
        assert!(is_checkpoint_url("s3://b/run/checkpoints/step-00000050"));
        assert!(is_checkpoint_url("/runs/a/checkpoints/step-123456789/"));
        for other in [
            "/models/llama",
            "step-50",
            "/a/step-0000005x",
            "/a/steps-00000050",
        ] {
            assert!(!is_checkpoint_url(other), "{other}");
        }
    }
}
