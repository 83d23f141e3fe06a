//! A cluster of child processes on this machine, for `rekindle run` and `rekindle demo`.
//!
//! ```text
//!   rekindle run ─┬─ rekindle coordinator   loopback, a port of the system's choice
//!                 ├─ rekindle worker …      restarted when it dies
//!                 └─ … each in a process group of its own, so that Ctrl-C reaches this process alone
//! ```
//!
//! Invariants
//! - CM-4 Every child is killed when its handle is dropped, and by the kernel when this process dies.
//! - CM-5 Stopping is bounded: a child that ignores SIGTERM is killed after a grace period.

mod child;
mod cluster;
mod folder;
mod kills;
mod session;

pub use cluster::ClusterOptions;
pub use folder::RunFolder;
pub use kills::Kill;
pub use session::{Outcome, train};

/// Processor cores this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
