//! Who a transport speaks for: job, epoch, rank, size of the world. Both ends compare theirs before a single
//! frame flows.

use std::fmt;

use rekindle_types::{Epoch, JobId, RankId};
use xxhash_rust::xxh3::xxh3_64;

/// One member of one plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The job.
    pub job: JobId,
    /// The epoch of the plan that made this connection.
    pub epoch: Epoch,
    /// This member.
    pub rank: RankId,
    /// How many ranks the plan has.
    pub world: u32,
}

impl Identity {
    /// What frames carry instead of the job's name: xxh3-64 of it, seed 0.
    #[must_use]
    pub fn job_hash(&self) -> u64 {
        xxh3_64(self.job.as_str().as_bytes())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} in job {} at {}",
            self.rank, self.world, self.job, self.epoch
        )
    }
}
