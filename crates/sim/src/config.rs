//! What a run of the simulation is made of.

/// A run. Two runs of equal configurations give equal reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimConfig {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Workers, each with 1 or 2 slots.
    pub workers: u32,
    /// Jobs submitted over the first seconds.
    pub jobs: u32,
    /// Faults injected; none: the seed draws 0 to 8. With 0 storage never fails either.
    pub faults: Option<u32>,
    /// Virtual milliseconds in which faults happen; after it everything heals.
    pub fault_ms: u64,
    /// Virtual milliseconds after which a job that hasn't ended is a violation.
    pub limit_ms: u64,
    /// Keep the text of the trace (its hash is always there).
    pub trace: bool,
    /// A bug put into the harness, to see that the invariants catch it.
    pub planted: Option<PlantedBug>,
    /// Where the coordinator dies once, besides what the seed draws.
    pub cut: Option<Cut>,
}

/// A place in the coordinator's journal at which it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The last record that is durable.
    pub record: u64,
    /// Whether the machine has heard so, and what waited for it has been done.
    pub heard: bool,
}

impl SimConfig {
    /// The usual run of a seed: 4 workers, 3 jobs.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            workers: 4,
            jobs: 3,
            faults: None,
            fault_ms: 20_000,
            limit_ms: 600_000,
            trace: false,
            planted: None,
            cut: None,
        }
    }

    /// Whether nothing fails but what is asked for: storage works, too.
    pub(crate) fn is_quiet(&self) -> bool {
        self.faults == Some(0)
    }
}

/// Bugs for the invariants to catch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedBug {
    /// The shell doesn't wait for records to be durable.
    EarlyEffects,
    /// Late copies of start orders pass as if they were of a newer epoch: a worker without fences.
    UnfencedEpochs,
    /// The shell says that a record is durable and loses it in a crash.
    LostRecords,
}
