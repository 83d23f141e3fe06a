//! The worker: an agent on a machine that keeps a session with the coordinator and runs trainers, and the trainer
//! itself.
//!
//! ```text
//!   coordinator <== gRPC session ==> worker process <== JSON lines over stdin/stdout ==> trainer process (one per rank)
//!                                                                                          trainer <== TCP ==> trainer
//! ```
//!
//! Start reading at [`shell`] for the agent, at [`trainer`] for what computes. The agent's decisions are in
//! `rekindle-worker-core`.

mod output;
pub mod shell;
pub mod trainer;

pub use shell::{TrainerProgram, WorkerError, WorkerOptions, serve};
pub use trainer::trainer_main;
