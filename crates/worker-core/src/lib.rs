//! The worker as a pure machine: trainer life cycle, numbered reports, staying registered. No clock, no IO, no async.
//!
//! ```text
//!   coordinator                                                                trainer processes
//!      | SessionOpened, SessionRefused, SessionClosed, Command                    | Spawned, SpawnFailed, FromTrainer, Exited
//!      v                                                                          v
//!   +----------------------------------------------------------------------------------------------+
//!   |  handle(now, event) -> effects                       next_deadline() -> when to Tick         |
//!   |  link (backoff, heartbeat)   outbox (kept until acknowledged)   trainers (start ... ended)    |
//!   +----------------------------------------------------------------------------------------------+
//!      | OpenSession, CloseSession, Send, Heartbeat                               | SpawnTrainer, EditTrainer, ToTrainer, Terminate, Kill
//!      v                                                                          v
//! ```
//!
//! The shell executes effects in the order given.
//!
//! Invariants
//! - WC-1 A report is kept until it is acknowledged; only Step reports may be dropped for room, oldest first, and are
//!   counted.
//! - WC-2 At most one process per (job, rank) at a time: a newer epoch's trainer is the older one's process, which
//!   waits for it, or is spawned after that has exited.
//! - WC-3 A command of an epoch older than the newest one seen for its job is dropped.
//! - WC-4 A trainer that was told to end is killed after a grace; every exit gives exactly one of Finished, Failed,
//!   Stopped, but that of a process on its way to another epoch: another one takes its place.
//! - WC-5 Losing the coordinator stops no trainer before [`WorkerConfig::orphan_limit`].
//! - WC-10 A fault is injected only where [`WorkerConfig::allow_chaos`] is set, and only into this worker or a
//!   trainer it started.
//!
//! Deliberately absent: what a trainer computes, redundancy of its state.

mod chaos;
mod config;
mod edits;
mod effect;
mod event;
mod fence;
mod lifecycle;
mod link;
mod machine;
mod outbox;
pub mod trainer_messages;
mod trainers;

pub use config::WorkerConfig;
pub use effect::{Effect, ExitReason};
pub use event::{Event, Exit, SessionTerms, TrainerKey};
pub use machine::Worker;

/// Milliseconds of any clock; it may jump, see [`WorkerConfig::max_step`].
pub type Millis = u64;
