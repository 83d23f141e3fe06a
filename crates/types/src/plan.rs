//! A plan as pure data: which worker holds which rank, which rank holds which layers.
//!
//! A plan together with the job's spec determines everything a trainer does in a step (see `rekindle-plan`).

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{Epoch, JobId, Rank, RankId, WorkerId};

/// Who does what in one epoch of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The job.
    pub job: JobId,
    /// Rises with every plan of the job that was made durable.
    pub epoch: Epoch,
    /// Data-parallel copies of the pipeline.
    pub lanes: u32,
    /// Layer indices (pipeline order: 0 is the embedding, the last is the head) of each stage: contiguous, none empty.
    pub stages: Vec<Range<u32>>,
    /// The worker of each rank, indexed by [`RankId`]; a worker may hold several ranks.
    pub workers: Vec<WorkerId>,
}

impl Plan {
    /// Number of pipeline stages.
    #[must_use]
    pub fn stage_count(&self) -> u32 {
        u32::try_from(self.stages.len()).unwrap_or(u32::MAX)
    }

    /// Whether its ranks have the same layers and shards as those of another plan, wherever they are.
    #[must_use]
    pub fn is_cut_as(&self, other: &Self) -> bool {
        (self.lanes, &self.stages) == (other.lanes, &other.stages)
    }

    /// Number of ranks.
    #[must_use]
    pub fn world(&self) -> u32 {
        self.lanes * self.stage_count()
    }

    /// Every rank in order of its id.
    pub fn ranks(&self) -> impl Iterator<Item = RankId> + use<> {
        (0..self.world()).map(RankId)
    }

    /// Lane and stage of a rank.
    #[must_use]
    pub fn rank(&self, id: RankId) -> Rank {
        Rank::of(id, self.stage_count())
    }

    /// The worker of a rank.
    #[must_use]
    pub fn worker_of(&self, rank: RankId) -> Option<&WorkerId> {
        self.workers.get(rank.0 as usize)
    }

    /// The ranks of `worker`.
    pub fn ranks_of<'a>(&'a self, worker: &'a WorkerId) -> impl Iterator<Item = RankId> + 'a {
        self.ranks()
            .filter(move |id| self.workers.get(id.0 as usize) == Some(worker))
    }
}
