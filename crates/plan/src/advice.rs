//! What to do about a trainer that doesn't fit into its device's memory: the changes of a job that make it smaller,
//! with what it would take then.
//!
//! In: a job, a plan, a rank and its device. Out: text for an error, figures by [`mod@crate::memory`].
//!
//! Deliberately absent: changes that show in the result (another dtype, a smaller model).

use std::fmt::Write as _;

use rekindle_types::{JobSpec, Plan, Rank, Recompute, WorkerId};

use crate::memory::{Memory, On, memory};
use crate::place::cut_into;

/// What `rank` needs, in words: each use that takes something, largest first, and the sum.
#[must_use]
pub fn needs(memory: &Memory) -> String {
    let mut uses: Vec<_> = memory
        .uses()
        .into_iter()
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    uses.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let uses: Vec<String> = uses
        .into_iter()
        .map(|(what, bytes)| format!("{what} {}", mib(bytes)))
        .collect();
    format!("{} MiB ({})", mib(memory.total()), uses.join(", "))
}

/// What would help, each with the MiB that the rank (of more stages: the largest of its lane) takes then.
#[must_use]
pub fn would_help(spec: &JobSpec, plan: &Plan, rank: Rank, on: On) -> String {
    let now = memory(spec, plan, rank, on).total();
    let mut text = String::new();
    let mut offer = |what: String, total: u64| {
        if total < now {
            let or = if text.is_empty() { "" } else { ", or " };
            let _ = write!(text, "{or}{what} ({} MiB)", mib(total));
        }
    };
    let micro_batch = spec.training.micro_batch;
    // Divides the global batch, as the whole does.
    let fewer = if micro_batch.is_multiple_of(2) {
        micro_batch / 2
    } else {
        1
    };
    let mut changed = spec.clone();
    changed.training.micro_batch = fewer;
    offer(
        format!("training.micro_batch = {fewer}"),
        memory(&changed, plan, rank, on).total(),
    );
    let mut changed = spec.clone();
    changed.training.recompute = Recompute::Block;
    offer(
        "training.recompute = \"block\"".to_owned(),
        memory(&changed, plan, rank, on).total(),
    );
    let stages = (2 * plan.stage_count()).min(spec.model.num_hidden_layers + 2);
    if let Some(total) = largest_of(spec, plan, rank.lane, stages, on) {
        offer(format!("parallelism.pipeline = {stages}"), total);
    }
    text
}

/// What the largest rank of a lane takes with so many stages.
fn largest_of(spec: &JobSpec, plan: &Plan, lane: u32, stages: u32, on: On) -> Option<u64> {
    let cuts = cut_into(spec, stages)?;
    // Each on a worker of its own, as guards are.
    let workers = (0..cuts.len() * plan.lanes as usize).map(|n| WorkerId::new(format!("w{n}")));
    let plan = Plan {
        workers: workers.collect::<Result<_, _>>().ok()?,
        stages: cuts,
        ..plan.clone()
    };
    let of = |stage| memory(spec, &plan, Rank { lane, stage }, on).total();
    (0..stages).map(of).max()
}

/// Whole MiB, rounded up.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
