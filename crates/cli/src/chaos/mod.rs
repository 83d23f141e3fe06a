//! What `rekindle chaos` decides, without clock or network: which faults come when, and what a job's time went into.
//!
//! ```text
//!   seed, rate | schedule file | trace --schedule--> when, what, to whom
//!   events, metrics lines              --goodput---> every worker-second labelled --report--> table, JSON
//! ```
//!
//! Invariants
//! - CM-6 A schedule of faults is a function of its seed and settings: the same give the same faults at the same times.
//! - CM-7 The labelled worker-seconds of a job add up to its duration times its workers.
//!
//! Deliberately absent: waiting, and injecting (see `crate::commands::chaos`).

pub mod goodput;
mod random;
pub mod report;
pub mod schedule;
