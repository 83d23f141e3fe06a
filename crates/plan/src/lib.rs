//! Planning as pure functions: layer cut, placement, guards and groups, pipeline schedule, micro-batch dispatch,
//! learning rate, how often to save, figures of cost and memory.
//!
//! ```text
//!   JobSpec + free slots --place--> Plan --program--> what each rank does in a step
//!                                    \----report---> cut, bubble, memory, bytes per link, for a person
//! ```
//!
//! Invariants
//! - PL-1 Every layer has exactly one stage, every stage at least one layer, and stages follow the pipeline order.
//! - PL-2 Every micro-batch of a step is run by exactly one lane.
//! - PL-3 A rank holds the activations of at most `stages - stage` micro-batches at once (1F1B), with swapped ones of
//!   at most `stages + 2`.
//! - PL-4 Same inputs, same plan: no clock, no randomness, no iteration over unordered maps.
//! - PL-10 Ranks never wait for each other in a ring: their programs are parts of one order in which every operation
//!   comes after what it waits for.
//!
//! Deliberately absent: moving layers between two plans (nothing migrates yet).

pub mod advice;
pub mod average;
pub mod cost;
pub mod cut;
pub mod dispatch;
pub mod guard;
pub mod interval;
pub mod lines;
pub mod links;
pub mod lr;
pub mod memory;
pub mod parity;
pub mod place;
pub mod report;
pub mod schedule;
pub mod survival;
pub mod swap;
#[cfg(test)]
mod testing;

pub use dispatch::micro_batches_of;
pub use guard::{end_guards_of, fewer_guards, guards, guards_of, moments_alone, twins};
pub use interval::{SaveCosts, save_interval};
pub use lines::{first_on_workers, line_keepers};
pub use links::LinkReport;
pub use lr::{LayerRate, layer_rate, learning_rate};
pub use memory::{Memory, On, memory};
pub use parity::parity_groups;
pub use place::{PlaceError, Slot, place};
pub use report::{PlanReport, StageMemory, StageReport, report};
pub use schedule::{Op, program};
pub use survival::{BeyondMemory, ParityReport, SourceReport, SurvivalReport, survival};
pub use swap::{Stop, is_swapped, route, swapped_program};
