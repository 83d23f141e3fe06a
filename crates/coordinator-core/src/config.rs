//! Time limits and bounds of the coordinator. All times in milliseconds.

use crate::Millis;

/// Limits. [`Config::default`] suits a local network; every field is meant to be set by a file or a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A connected worker is asked to be heard of this often.
    pub heartbeat: Millis,
    /// A worker that wasn't heard of for so long is lost.
    pub lease: Millis,
    /// A worker whose connection broke (or that the coordinator's restart cut off) may come back within this time.
    pub reconnect_grace: Millis,
    /// All trainers must be ready this long after their plan is durable.
    pub start_limit: Millis,
    /// The first step must be committed this long after the trainers were told to connect or one of them was heard to
    /// get on.
    pub first_step_limit: Millis,
    /// A later step may take this long without anybody heard to get on, however fast the ones before were.
    pub progress_floor: Millis,
    /// A later step may take this many times the slowest of the recent ones, where that is more than the floor.
    pub progress_factor: u32,
    /// A trainer that hasn't said a word for so long, while no step is committed, stands still, however long steps
    /// are: one whose step takes more than 5 s says so every 3 s. More than a lease: a worker that stands still is
    /// told from its trainers.
    pub silence: Millis,
    /// From the last step (or the first finished rank) until all ranks are finished.
    pub finish_limit: Millis,
    /// How long a failure that may be a mere consequence waits for the one that caused it.
    pub settle: Millis,
    /// A cancelled job's trainers may take this long to stop.
    pub cancel_limit: Millis,
    /// A cancelled or draining job's state may take this long to be saved before its trainers are stopped without.
    pub save_limit: Millis,
    /// A job that lost a part waits this long for as many trainer slots as it had, before it goes on with fewer.
    pub regroup: Millis,
    /// A job that goes on looks for the state to start from again after this time, where its store didn't answer.
    pub search_pause: Millis,
    /// So long; then it fails.
    pub search_limit: Millis,
    /// A Stop that wasn't answered is sent again after this time.
    pub resend_stop: Millis,
    /// The longest time that may pass for the machine between two events. A longer gap is a clock that jumped or a
    /// coordinator that stood still; counting it in full would end every lease at once.
    pub max_step: Millis,
    /// Jobs kept, ended ones included (the oldest ended ones go first).
    pub max_jobs: usize,
    /// Events kept per job (the newest).
    pub max_events: usize,
    /// Incidents kept per job (the newest).
    pub max_incidents: usize,
    /// Workers known at once.
    pub max_workers: usize,
    /// Trainers a single worker may offer.
    pub max_slots: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: 1_000,
            lease: 10_000,
            reconnect_grace: 8_000,
            start_limit: 120_000,
            first_step_limit: 300_000,
            progress_floor: 60_000,
            progress_factor: 20,
            silence: 20_000,
            finish_limit: 300_000,
            settle: 1_000,
            cancel_limit: 15_000,
            save_limit: 60_000,
            regroup: 10_000,
            search_pause: 10_000,
            search_limit: 1_800_000,
            resend_stop: 5_000,
            max_step: 2_000,
            max_jobs: 1_000,
            max_events: 500,
            max_incidents: 100,
            max_workers: 1_024,
            max_slots: 256,
        }
    }
}
