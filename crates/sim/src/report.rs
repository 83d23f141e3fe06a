//! What a run gives back, and the trace.

use std::collections::BTreeMap;
use std::fmt;

use rekindle_types::{JobId, JobState};

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its label, for instance `SM-2`.
    pub rule: &'static str,
    /// Virtual time, milliseconds.
    pub at: u64,
    /// What happened.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms: {}", self.rule, self.at, self.detail)
    }
}

/// The outcome of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimReport {
    /// The seed.
    pub seed: u64,
    /// FNV-1a hash of every line of the trace.
    pub trace_hash: u64,
    /// Events handled.
    pub events: u64,
    /// Virtual time at the end, milliseconds.
    pub virtual_ms: u64,
    /// How each job ended, with the reason of a failure.
    pub jobs: BTreeMap<JobId, (JobState, String)>,
    /// Faults that were injected.
    pub faults: u32,
    /// Trainers that were to go over to another epoch, and how many of them died of it or didn't get ready.
    pub edits: (u32, u32),
    /// Records in the coordinator's journal at the end.
    pub records: u64,
    /// How often the coordinator was started.
    pub coordinator_starts: u32,
    /// Rules broken; the run stops at the first.
    pub violations: Vec<Violation>,
    /// The trace, when asked for.
    pub trace: Vec<String>,
}

impl SimReport {
    /// The command that runs this again.
    #[must_use]
    pub fn replay_command(&self) -> String {
        format!("rekindle sim run --seed {}", self.seed)
    }
}

/// Lines of the run, hashed and perhaps kept.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) hash: u64,
    pub(crate) lines: Vec<String>,
    keep: bool,
}

impl Trace {
    pub(crate) fn new(keep: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: Vec::new(),
            keep,
        }
    }

    pub(crate) fn line(&mut self, at: u64, text: &str) {
        let line = format!("{at:>7} {text}");
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.keep {
            self.lines.push(line);
        }
    }
}
