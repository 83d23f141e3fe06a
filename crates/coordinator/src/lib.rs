//! The coordinator process: the machine of `rekindle-coordinator-core` with a clock, a journal, files and gRPC around
//! it.
//!
//! ```text
//!   gRPC handlers --bounded queue--> one task: machine.handle(now, event) -> effects, in order
//!   worker sessions ---/               |          |            |              |
//!                              journal thread  files     worker queues     watchers
//!                                (redb, fsync)  (a task a job)  (bounded)      (bounded)
//! ```
//!
//! In: [`CoordinatorConfig`] and a shutdown token. Out: a service, until the token is cancelled.
//!
//! Invariants
//! - CS-1 Only one task touches the machine; handlers ask it through a bounded queue and wait with a deadline.
//! - CS-2 Effects are done in the order given out; one that names a record, and all behind it, wait until it is
//!   durable.
//! - CS-3 Nothing grows without bound: a worker that doesn't take its commands is disconnected, a watcher that lags
//!   gets a snapshot, a run's folder that doesn't take its lines fails the job.
//! - CS-4 A step report is acknowledged to its worker only after its line was written, so that killing the
//!   coordinator loses none.
//! - CS-5 Without TLS (or `insecure`) it listens on loopback addresses only.
//! - CS-6 Shutdown is ordered and bounded: not serving, streams ended, calls drained, machine stopped, files and
//!   journal closed.
//! - CS-10 Faults are injected only by a coordinator that was started with `allow_chaos`; without, the service isn't
//!   there.
//!
//! Deliberately absent: decisions about jobs (`rekindle-coordinator-core`), what messages look like (`rekindle-proto`).

mod clock;
mod config;
mod error;
mod faults;
mod files;
mod handle;
mod hub;
mod journal;
mod keeper;
mod logs;
mod rpc;
mod serve;
mod session;
mod shell;
#[cfg(test)]
mod shell_tests;
mod submit;
mod view;

pub use config::{CoordinatorConfig, TlsFiles};
pub use error::ServeError;
pub use rekindle_coordinator_core::Config as Limits;
pub use serve::{Bound, bind, serve, serve_on};
