//! Who the worker is, its time limits and bounds. All times in milliseconds.

use rekindle_types::{DeviceId, JobId, WorkerId};

use crate::Millis;

/// Identity and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// The worker's name.
    pub worker: WorkerId,
    /// Drawn anew at every start of the process.
    pub incarnation: u64,
    /// Version of the binary.
    pub version: String,
    /// Host that other trainers reach this worker's trainers at.
    pub data_host: String,
    /// Processor threads a trainer may use.
    pub threads: u32,
    /// What its trainers compute on.
    pub device: DeviceId,
    /// Trainers it may run at once.
    pub slots: u32,
    /// Memory of the machine, bytes; 0: unknown.
    pub memory_bytes: u64,
    /// Jobs whose state was found in the machine's memory when the process started.
    pub kept: Vec<JobId>,
    /// Seed of the jitter of reconnect waits: the machine draws nothing itself.
    pub jitter_seed: u64,
    /// An attempt to open a session may take this long.
    pub open_limit: Millis,
    /// The first wait before connecting again; doubles with every failed attempt.
    pub backoff_first: Millis,
    /// The longest wait before connecting again.
    pub backoff_most: Millis,
    /// A refusal for a taken name is tried again for this long; then the worker leaves.
    pub refused_limit: Millis,
    /// Trainers are stopped after so long without a coordinator.
    pub orphan_limit: Millis,
    /// A trainer that was told to end is killed after this time.
    pub stop_grace: Millis,
    /// A trainer that was told to halt is stopped instead after this time.
    pub halt_limit: Millis,
    /// A trainer that goes over to another epoch is started again instead if it isn't ready after this time.
    pub edit_limit: Millis,
    /// A worker that is asked to leave gives the coordinator this long to have state saved and trainers stopped; 0:
    /// none.
    pub drain_limit: Millis,
    /// A shutdown waits this long for killed trainers and unacknowledged ends; then the worker leaves.
    pub leave_limit: Millis,
    /// The longest time that may pass for the machine between two events (a longer gap is a clock jump or a
    /// standstill).
    pub max_step: Millis,
    /// Whether faults are injected on request (WC-10).
    pub allow_chaos: bool,
    /// Reports kept until acknowledged. Ends of trainers are kept beyond it, Step reports make room.
    pub max_reports: usize,
}

impl WorkerConfig {
    /// A worker with the usual limits.
    #[must_use]
    pub fn new(worker: WorkerId, incarnation: u64) -> Self {
        Self {
            worker,
            incarnation,
            version: String::new(),
            data_host: "127.0.0.1".to_owned(),
            threads: 1,
            device: DeviceId::Cpu,
            slots: 1,
            memory_bytes: 0,
            kept: Vec::new(),
            jitter_seed: incarnation,
            open_limit: 5_000,
            backoff_first: 100,
            backoff_most: 3_000,
            refused_limit: 30_000,
            orphan_limit: 3_600_000,
            stop_grace: 5_000,
            halt_limit: 2_000,
            edit_limit: 10_000,
            drain_limit: 20_000,
            leave_limit: 3_000,
            max_step: 2_000,
            allow_chaos: false,
            max_reports: 10_000,
        }
    }
}
