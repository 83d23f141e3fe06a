//! A simulated NCCL: several processes of one world, in one process, without devices.
//!
//! It has NCCL's ways as far as they matter here: ranks meet when all have come, what begins is in progress for a few
//! looks, sends and receives pair up in the order of each communicator's stream, ranks are numbered anew by split,
//! shrink and grow, an abort frees only the one that calls it. On demand a process freezes, dies (with a word of it
//! to the others or without), meets codes nobody knows, or hangs in an abort. Whatever would deadlock or is undefined
//! in NCCL is noted as a violation.

mod calls;
mod world;

use std::sync::{Arc, Mutex, MutexGuard};

use rekindle_compute::cuda::nccl::{Calls, Code};

use world::World;

pub use world::memory;

/// The NCCL that is simulated unless another is asked for.
pub const VERSION: i32 = 23_203;

/// What all processes share.
#[derive(Clone, Default)]
pub struct Cluster(Arc<Mutex<World>>);

/// NCCL as one process sees it.
pub struct Process {
    cluster: Cluster,
    number: u32,
    version: i32,
}

impl Cluster {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Another process, numbered from 0 on.
    pub fn process(&self) -> Arc<dyn Calls> {
        self.process_with(VERSION)
    }

    /// One with another NCCL.
    pub fn process_with(&self, version: i32) -> Arc<dyn Calls> {
        let number = self.lock().new_process();
        Arc::new(Process {
            cluster: self.clone(),
            number,
            version,
        })
    }

    /// From now on nothing that the process is part of gets on.
    pub fn freeze(&self, process: u32) {
        self.lock().frozen.insert(process);
    }

    /// What froze gets on again.
    pub fn thaw(&self, process: u32) {
        self.lock().frozen.remove(&process);
    }

    /// The process is gone. With `told`, communicators that it was part of get an error.
    pub fn die(&self, process: u32, told: bool) {
        self.lock().die(process, told);
    }

    /// The process's next call of this name gives this code; "state" at the next look.
    pub fn plant(&self, process: u32, call: &'static str, code: Code) {
        self.lock().planted.insert((process, call), code);
    }

    /// Aborts of this process don't come back before `release`.
    pub fn hang_aborts(&self, process: u32) {
        self.lock().stuck.insert(process);
    }

    /// Everything that hangs goes on.
    pub fn release(&self) {
        self.lock().stuck.clear();
    }

    /// How often a call was made.
    pub fn calls(&self, call: &'static str) -> usize {
        self.lock().calls.get(call).copied().unwrap_or(0)
    }

    /// Transfers that have happened.
    pub fn transfers(&self) -> usize {
        self.lock().transfers
    }

    /// Whether a transfer of the process waits for its other end.
    pub fn waits(&self, process: u32) -> bool {
        self.lock().waits(process)
    }

    /// Fails when a call was made that may deadlock, or a communicator was neither destroyed nor aborted.
    pub fn check(&self) {
        let world = self.lock();
        assert!(world.violations.is_empty(), "{:#?}", world.violations);
        assert!(world.left().is_empty(), "left behind: {:?}", world.left());
    }

    /// Fails when a call was made that may deadlock.
    pub fn check_calls(&self) {
        let world = self.lock();
        assert!(world.violations.is_empty(), "{:#?}", world.violations);
    }
}
