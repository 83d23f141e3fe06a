//! The coordinator as a pure machine: jobs, workers, leases and gangs of trainers. No clock, no IO, no async.
//!
//! ```text
//!        clients                                                        journal   files   watchers
//!   Submit, Cancel |                                            Persist ^   AppendX ^   Publish ^
//!                  v                                                    |           |           |
//!   Tick ----> +-------------------------------------------------------------------------------+
//!              |  handle(now, event) -> effects          next_deadline() -> when to Tick       |
//!   Persisted->|                                                                               |
//!              |  submit, cancel -> queue -> placement -> gang (start, ready, connect, step,   |
//!              |  finish) -> verdict;  registry (sessions, leases, slots, adoption)            |
//!              |                                                                               |
//!              |  live = fold(records given out)    durable = fold(records known durable)      |
//!              +-------------------------------------------------------------------------------+
//!                  ^                                                    |           |
//!   WorkerRegistered, WorkerReport, Heartbeat, SessionLost              v Send      v AcceptSession, CloseSession
//!        workers
//! ```
//!
//! The shell executes effects strictly in the order given. An effect with `after = Some(seq)` waits until that record
//! is durable, and everything behind it waits as well. It handles what has arrived before it sends a `Tick`.
//!
//! Invariants
//! - CO-1 Durable before visible: nothing that depends on a record leaves (command, answer, event line, query result)
//!   before the record is durable.
//! - CO-2 The durable state is changed by [`Durable::apply`] alone; folding the journal through it gives the live
//!   durable state.
//! - CO-3 A job has at most one plan per epoch; whatever comes from another epoch than the current plan's is dropped
//!   and counted.
//! - CO-4 Every wait has a deadline: each job that isn't queued ends when nothing happens.
//! - CO-5 Whatever a worker or a client sends, twice or late, changes nothing the second time.
//! - CO-6 Jobs, events per job and workers are bounded by [`Config`].
//!
//! - CO-7 A checkpoint is committed only when every rank of the plan has said that its part is durable; a part is
//!   acknowledged only when its checkpoint is committed or given up, so that a coordinator that dies in between hears
//!   of it again.
//! - CO-8 A job that lost a part goes on only under a new epoch, all its ranks from the same step.
//! - CO-9 Every failure of a job that trains belongs to exactly one incident; once decided, exactly one of an
//!   incident's failures is INITIATING.
//!
//! Deliberately absent: recovery of a single trainer while the others go on (all begin the new epoch together),
//! anything about steps beyond counting them.

mod average;
mod begin;
mod budget;
mod commits;
mod config;
mod durable;
mod durable_job;
mod edits;
mod effect;
mod event;
mod gang;
mod hang;
mod incidents;
mod machine;
mod notes;
mod nowhere;
mod parity;
mod query;
mod record;
mod recover;
mod registry;
mod remember;
mod reports;
mod requests;
mod restore;
mod run;
mod saves;
mod sessions;
mod slots;
mod story;
mod telling;
mod timers;
mod verdict;
mod view;
mod waits;

pub use budget::Budget;
pub use config::Config;
pub use durable::{Durable, FoldError};
pub use durable_job::DurableJob;
pub use effect::{Answer, CloseReason, Commit, Effect, Rejection, SessionTerms, StartSearch, Update};
pub use event::{CancelMode, Event, NotFound, Submission};
pub use machine::{Coordinator, RestoreError};
pub use record::{Change, CommittedCheckpoint, Record, Seq};
pub use story::Story;
pub use view::{JobView, RankPhase, RankView, Stats, WorkerView};

/// Milliseconds since the Unix epoch, as the shell's wall clock has it. It may jump; see [`Config::max_step`].
pub type Millis = u64;

/// Names a request that waits for an answer; chosen by the shell, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Names one connection of a worker; chosen by the shell, never used twice in the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);
