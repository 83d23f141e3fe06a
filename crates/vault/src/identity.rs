//! Whose state a file holds. A successor takes it only when all of it is equal.

use rekindle_types::{JobId, JobSpec, Plan, RankId};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// What must be the same for one trainer's memory to be another's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The job.
    pub job: JobId,
    /// The rank.
    pub rank: RankId,
    /// Data-parallel copies of the pipeline.
    pub lanes: u32,
    /// First layer and one past the last layer of each stage.
    pub stages: Vec<(u32, u32)>,
    /// Digest of the job file: what is trained, on which data, how.
    pub spec: u64,
    /// What it is of the rank's.
    pub what: What,
}

/// What a file holds of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// All that it holds, kept by itself.
    Own,
    /// What it owns alone, kept by its guard.
    Shadow,
    /// What it owns alone as of some steps, with its parities of others' states, kept by itself.
    Parity,
}

impl Identity {
    /// That of something of a rank of a plan.
    #[must_use]
    pub fn of(plan: &Plan, rank: RankId, what: What, spec: &JobSpec) -> Self {
        Self {
            job: plan.job.clone(),
            rank,
            lanes: plan.lanes,
            stages: plan.stages.iter().map(|stage| (stage.start, stage.end)).collect(),
            spec: xxh3_64(&serde_json::to_vec(spec).unwrap_or_default()),
            what,
        }
    }
}
