//! The comparison of ways to get a lost pipeline stage back: real training, in one process, on real text.
//!
//! ```text
//! Config -> for each seed: undisturbed run -> target loss, digest
//!             for each rate: Trace (drawn once) -> for each Method: Driver { Pipeline, Recovery } -> RunResult
//!        -> Results -> results.json, table.md, loss.svg, time-to-target.svg
//! ```
//!
//! In: a [`Config`] and text. Out: [`Results`]. Who calls: `rekindle experiment recovery`. The question and its
//! protocol come from the CheckFree paper (arXiv 2506.15461v2, section 5); its mathematics are
//! [`rekindle_plan::average`], which live jobs use as well.
//!
//! Invariants
//! - EX-3 Losses, digests and failures are functions of the config and the text; times alone are not.
//! - EX-4 Every method of a seed and rate meets the same failures: same iteration, same stage, same micro-batch.
//! - EX-5 A lost stage's state is overwritten with NaN before anything is rebuilt, so that nothing can be taken from
//!   it unseen.
//! - EX-6 A method that calls itself exact has the digest of the undisturbed run at every step, or the experiment
//!   fails.
//!
//! Deliberately absent: processes, networks and their delays. What a real cluster adds is a number in [`CostModel`],
//! named as modelled.

mod config;
mod cost;
mod error;
mod grid;
mod machine;
mod method;
mod pipeline;
mod recovery;
mod report;
mod results;
mod run;
mod summary;
mod text;
mod trace;

pub use config::{Config, Shape};
pub use cost::{CostModel, Usage};
pub use error::{ExperimentError, Result};
pub use grid::{Progress, run};
pub use method::{Control, LrBoost, Method, Neighbour, Substitute};
pub use pipeline::{MicroBatch, Pipeline, Place, StageState};
pub use report::{table, write};
pub use results::{FailureRecord, Outcome, Point, Results, RunResult, StepTime, TextFacts};
pub use run::{Setting, drive};
pub use summary::{Row, Spread};
pub use text::Text;
pub use trace::{Failing, Failure, Trace};
