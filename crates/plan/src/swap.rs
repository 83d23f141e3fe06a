//! Swapped micro-batches (CheckFree+, arXiv 2506.15461v2, section 4.3): every other one visits the two first and the
//! two last stages in the other order, so that these learn each other's work and a lost end can be a copy of the
//! stage beside it.
//!
//! ```text
//!   usual    0             1      2  ...  s-3             s-2  s-1
//!   swapped  0's embedding 1  0's blocks  2  ...  s-3  s-1's blocks  s-2  s-1's head        backward the same in reverse
//! ```
//!
//! In: stages, the micro-batches of a lane. Out: the stops of each micro-batch, and for every rank the order of its
//! forwards and backwards.
//!
//! A rank at an end meets a swapped micro-batch twice, so 1F1B's fixed order doesn't fit. The programs are those of a
//! simulated pipeline in which every rank that is idle does what is there for it, backwards first, then the oldest
//! micro-batch, and a micro-batch enters when fewer than `stages + 2` are in flight. What entered always has a next
//! operation that waits for nothing but its rank, so the simulation ends; and the order in which it did the
//! operations is one in which each comes after what it waits for (PL-10).
//!
//! Deliberately absent: measured times. An order made for others is as right, and as safe, only slower.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use rekindle_types::{JobSpec, Part, Plan, Rank};

use crate::average::visiting_order;
use crate::dispatch::micro_batches_of;
use crate::schedule::{Op, Row, most_in_flight, program};

/// A stage that a micro-batch visits, and what of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The stage.
    pub stage: u32,
    /// What of it.
    pub part: Part,
}

/// Whether a micro-batch is swapped, in a job that swaps: every other one of a step, counted over all lanes, so that
/// lanes don't enter.
#[must_use]
pub fn is_swapped(micro_batch: u32) -> bool {
    micro_batch % 2 == 1
}

/// The stops of a micro-batch on its way forward. Below four stages there is nothing to swap.
#[must_use]
pub fn route(stages: u32, swapped: bool) -> Vec<Stop> {
    let order = visiting_order(stages as usize, swapped).unwrap_or_else(|_| (0..stages as usize).collect());
    let is_usual = |(place, stage): (usize, &usize)| place == *stage;
    let whole = order.iter().enumerate().all(is_usual);
    let part = if whole { Part::Whole } else { Part::Blocks };
    let is_end = |stage: u32| stage == 0 || stage + 1 == stages;
    let stop = |stage: usize| {
        let stage = u32::try_from(stage).unwrap_or(u32::MAX);
        let part = if is_end(stage) { part } else { Part::Whole };
        Stop { stage, part }
    };
    let alone = |stage, part| (!whole).then_some(Stop { stage, part });
    alone(0, Part::Embed)
        .into_iter()
        .chain(order.into_iter().map(stop))
        .chain(alone(stages.saturating_sub(1), Part::Head))
        .collect()
}

/// What `stage` of `stages` does with `micro_batches` (in this order) in a job that swaps.
#[must_use]
pub fn swapped_program(stage: u32, stages: u32, micro_batches: &[u32]) -> Vec<Op> {
    let mut rows = timeline(stages, micro_batches);
    let row = match (stage as usize) < rows.len() {
        true => rows.swap_remove(stage as usize),
        false => Row::new(),
    };
    row.into_iter().map(|(op, _, _)| op).collect()
}

/// Micro-batches of which a rank holds activations at most (PL-3), in any job.
#[must_use]
pub fn in_flight(spec: &JobSpec, plan: &Plan, rank: Rank) -> u32 {
    let all = micro_batches_of(rank.lane, plan.lanes, spec.micro_batches());
    let stages = plan.stage_count();
    match spec.recovery.swaps() {
        true => most_in_flight(&swapped_program(rank.stage, stages, &all)),
        false => most_in_flight(&program(rank.stage, stages, &all)),
    }
}

/// Share of rank-time in which stages that take equally long wait.
#[must_use]
pub fn swapped_bubble_share(stages: u32, micro_batches: &[u32]) -> f64 {
    let rows = timeline(stages, micro_batches);
    let ops = || rows.iter().flatten();
    let end = ops().map(|(_, _, end)| *end).max().unwrap_or(0);
    let busy: u32 = ops().map(|(_, start, end)| end - start).sum();
    1.0 - f64::from(busy) / (f64::from(end) * f64::from(stages)).max(1.0)
}

/// What every rank does and when.
fn timeline(stages: u32, micro_batches: &[u32]) -> Vec<Row> {
    let mut simulation = Simulation {
        routes: [false, true].map(|swapped| route(stages, swapped)),
        micro_batches,
        entered: 0,
        left: 0,
        ready: vec![BTreeSet::new(); stages as usize],
        at_work: vec![false; stages as usize],
        running: BinaryHeap::new(),
        rows: vec![Row::new(); stages as usize],
    };
    let mut now = 0;
    simulation.enter(stages as usize + 2);
    loop {
        simulation.begin(now);
        let Some(Reverse((end, stage, task))) = simulation.running.pop() else {
            return simulation.rows;
        };
        now = end;
        simulation.end(stage, task);
        while simulation
            .running
            .peek()
            .is_some_and(|Reverse((end, ..))| *end == now)
        {
            if let Some(Reverse((_, stage, task))) = simulation.running.pop() {
                simulation.end(stage, task);
            }
        }
        simulation.enter(stages as usize + 2);
    }
}

/// An operation of the micro-batch at a place in the list; its number on the way forward and back.
type Task = (usize, usize);

struct Simulation<'a> {
    /// Of usual micro-batches and of swapped ones.
    routes: [Vec<Stop>; 2],
    micro_batches: &'a [u32],
    entered: usize,
    left: usize,
    /// What each rank could do: backwards (false) before forwards.
    ready: Vec<BTreeSet<(bool, Task)>>,
    at_work: Vec<bool>,
    /// By end.
    running: BinaryHeap<Reverse<(u32, usize, Task)>>,
    rows: Vec<Row>,
}

impl Simulation<'_> {
    /// Where a task is, and what it is; none behind a micro-batch's last.
    fn task(&self, (index, number): Task) -> Option<(usize, Op)> {
        let m = *self.micro_batches.get(index)?;
        let route = &self.routes[usize::from(is_swapped(m))];
        let (stop, is_forward) = match number < route.len() {
            true => (route[number], true),
            false => (*route.get((2 * route.len()).checked_sub(number + 1)?)?, false),
        };
        let op = match is_forward {
            true => Op::Forward(m, stop.part),
            false => Op::Backward(m, stop.part),
        };
        Some((stop.stage as usize, op))
    }

    /// Whether there is such a task; a rank may begin it from now on.
    fn make_ready(&mut self, task: Task) -> bool {
        let Some((stage, op)) = self.task(task) else {
            return false;
        };
        self.ready[stage].insert((matches!(op, Op::Forward(..)), task));
        true
    }

    fn enter(&mut self, most: usize) {
        while self.entered < self.micro_batches.len() && self.entered - self.left < most {
            self.make_ready((self.entered, 0));
            self.entered += 1;
        }
    }

    /// Ranks that are idle begin something.
    fn begin(&mut self, now: u32) {
        for stage in 0..self.ready.len() {
            if self.at_work[stage] {
                continue;
            }
            let Some((_, task)) = self.ready[stage].pop_first() else {
                continue;
            };
            if let Some((_, op)) = self.task(task) {
                let end = now + slots(op);
                self.rows[stage].push((op, now, end));
                self.at_work[stage] = true;
                self.running.push(Reverse((end, stage, task)));
            }
        }
    }

    fn end(&mut self, stage: usize, (index, number): Task) {
        self.at_work[stage] = false;
        if !self.make_ready((index, number + 1)) {
            self.left += 1;
        }
    }
}

fn slots(op: Op) -> u32 {
    match op {
        Op::Backward(_, Part::Whole | Part::Blocks) => 2,
        Op::Forward(..) | Op::Backward(..) => 1,
    }
}

#[cfg(test)]
mod tests;
