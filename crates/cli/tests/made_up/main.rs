//! State that nobody has: stages become means or copies of others, or the job is refused by name.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod average;
#[path = "../common/mod.rs"]
mod common;
mod swap;
