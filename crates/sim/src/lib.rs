//! The real machines of the coordinator and the workers on a virtual clock and network, with faults drawn from a seed.
//!
//! ```text
//!   seed --> faults, delays, jobs        clients --> Coordinator <== conns (delay, freeze, cut) ==> Worker machines
//!                                                      | journal (survives)                           | trainers (scripts)
//!            every event --> invariants SM-1 .. SM-13   trace --> hash: same seed, same bytes
//! ```
//!
//! In: a [`SimConfig`]. Out: a [`SimReport`] with the first rule that was broken, if any, and the command that shows
//! it again. The rules are listed where they are checked (src/invariants.rs, src/storage.rs).
//!
//! Invariant SM-10: a run depends on its configuration alone: no clock, no thread, no address, no unordered map.
//!
//! Deliberately absent: what trainers compute, the bytes on the wire, and the source `parity` (jobs here don't ask
//! for it).

mod clients;
mod config;
mod coordinator_side;
mod decisions;
mod edits;
mod faults;
mod invariants;
mod memory;
mod network;
mod report;
mod rng;
mod storage;
mod stuck;
mod trainers;
mod whole;
mod worker_side;
mod world;

pub use config::{Cut, PlantedBug, SimConfig};
pub use report::{SimReport, Violation};

/// Runs one seed to its end or to the first broken rule.
#[must_use]
pub fn run(config: SimConfig) -> SimReport {
    world::World::new(config).run()
}
