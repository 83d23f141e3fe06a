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
    /// It is what the rank owns alone, kept by its guard.
    pub shadow: bool,
}

impl Identity {
    /// That of a rank of a plan.
    #[must_use]
    pub fn of(plan: &Plan, rank: RankId, spec: &JobSpec) -> Self {
        Self {
            job: plan.job.clone(),
            rank,
            lanes: plan.lanes,
            stages: plan.stages.iter().map(|stage| (stage.start, stage.end)).collect(),
            spec: xxh3_64(&serde_json::to_vec(spec).unwrap_or_default()),
            shadow: false,
        }
    }

    /// That of the shadow of a rank of a plan.
    #[must_use]
    pub fn of_shadow(plan: &Plan, rank: RankId, spec: &JobSpec) -> Self {
        Self {
            shadow: true,
            ..Self::of(plan, rank, spec)
        }
    }
}
