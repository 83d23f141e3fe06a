//! What a plan means, for a person, before anything runs.

use std::fmt;
use std::ops::Range;

use rekindle_types::{JobSpec, LayerId, Plan, Recompute};
use serde::Serialize;

use crate::cost::{
    FLOAT_BYTES, activation_bytes, kept_bytes, parameters, step_flops, weight_bytes, work_flops,
};
use crate::dispatch::micro_batches_of;
use crate::links::{LinkReport, accumulator_bytes, holds_mirror, links};
use crate::schedule::{bubble_share, most_in_flight};
use crate::survival::{SurvivalReport, survival};
use crate::swap::{swapped_bubble_share, swapped_program};

/// Everything `rekindle plan` shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanReport {
    /// Lanes (data-parallel copies of the pipeline).
    pub lanes: u32,
    /// Trained parameters.
    pub parameters: u64,
    /// Tokens a step.
    pub tokens_per_step: u64,
    /// Operations a step, all ranks together; those of `recompute` aren't counted.
    pub flops_per_step: u64,
    /// Micro-batches a step and lane (of the busiest lane).
    pub micro_batches_per_lane: u32,
    /// Share of rank-time spent waiting if all stages took equally long.
    pub bubble_share: f64,
    /// How much slower the slowest stage is than the mean stage, as a ratio of at least 1.
    pub imbalance: f64,
    /// One entry per stage.
    pub stages: Vec<StageReport>,
    /// One entry per kind of link.
    pub links: Vec<LinkReport>,
    /// What it survives.
    pub recovery: SurvivalReport,
}

/// One stage, as each of its ranks sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageReport {
    /// Layer indices in pipeline order.
    pub layers: Range<u32>,
    /// The layers' names, first and last.
    pub names: String,
    /// Parameters held.
    pub parameters: u64,
    /// Share of the step's operations, recomputed ones included.
    pub flops_share: f64,
    /// Weights, bytes.
    pub weight_bytes: u64,
    /// Gradient accumulators, bytes.
    pub gradient_bytes: u64,
    /// Adam moments of the shard of one lane, bytes.
    pub optimizer_bytes: u64,
    /// Activations of the micro-batches in flight, bytes; with `recompute`, those of the block at work, too.
    pub activation_bytes: u64,
    /// The workers that run it, lane by lane.
    pub workers: Vec<String>,
}

impl StageReport {
    /// All of it, bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes
    }
}

/// Works out what `plan` costs for `spec`.
#[must_use]
pub fn report(spec: &JobSpec, plan: &Plan) -> PlanReport {
    let layers: Vec<LayerId> = spec.model.layers().collect();
    let flops: Vec<u64> = layers
        .iter()
        .map(|l| step_flops(&spec.model, *l, spec.data.seq_len))
        .collect();
    let total: u64 = flops.iter().sum();
    let work: Vec<u64> = layers
        .iter()
        .map(|l| work_flops(&spec.model, *l, spec.data.seq_len, spec.training.recompute))
        .collect();
    let all: u64 = work.iter().sum();
    let share = |r: &Range<u32>| work[range(r)].iter().sum::<u64>() as f64 / all.max(1) as f64;
    let per_lane = micro_batches_of(0, plan.lanes, spec.micro_batches()).len();
    let per_lane = u32::try_from(per_lane).unwrap_or(u32::MAX);
    let worst = plan.stages.iter().map(share).fold(0.0, f64::max);
    let stages = (0..plan.stage_count())
        .map(|s| stage(spec, plan, &layers, s, per_lane, &share))
        .collect();
    PlanReport {
        lanes: plan.lanes,
        parameters: spec.model.parameters(),
        tokens_per_step: spec.tokens_per_step(),
        flops_per_step: total * spec.tokens_per_step(),
        micro_batches_per_lane: per_lane,
        bubble_share: bubble(spec, plan, per_lane),
        imbalance: worst * plan.stages.len() as f64,
        stages,
        links: links(spec, plan, &layers, per_lane),
        recovery: survival(spec, plan),
    }
}

fn range(r: &Range<u32>) -> Range<usize> {
    r.start as usize..r.end as usize
}

/// The micro-batches of each lane.
fn lanes<'a>(spec: &'a JobSpec, plan: &'a Plan) -> impl Iterator<Item = Vec<u32>> + 'a {
    (0..plan.lanes).map(|lane| micro_batches_of(lane, plan.lanes, spec.micro_batches()))
}

/// Of the lane that waits most.
fn bubble(spec: &JobSpec, plan: &Plan, per_lane: u32) -> f64 {
    let stages = plan.stage_count();
    match spec.recovery.swaps() {
        true => lanes(spec, plan)
            .map(|all| swapped_bubble_share(stages, &all))
            .fold(0.0, f64::max),
        false => bubble_share(stages, per_lane),
    }
}

/// Micro-batches whose activations a stage holds at most.
fn in_flight(spec: &JobSpec, plan: &Plan, stage: u32, per_lane: u32) -> u32 {
    let stages = plan.stage_count();
    let most = |all: Vec<u32>| most_in_flight(&swapped_program(stage, stages, &all));
    match spec.recovery.swaps() {
        true => lanes(spec, plan).map(most).max().unwrap_or(0),
        false => per_lane.min(stages - stage),
    }
}

fn stage(
    spec: &JobSpec,
    plan: &Plan,
    layers: &[LayerId],
    stage: u32,
    micro_batches: u32,
    share: &dyn Fn(&Range<u32>) -> f64,
) -> StageReport {
    let cut = &plan.stages[stage as usize];
    let own = &layers[range(cut)];
    let held: u64 = own.iter().map(|l| parameters(&spec.model, *l)).sum();
    let mirror = if holds_mirror(spec, plan, stage) {
        parameters(&spec.model, LayerId::Embed)
    } else {
        0
    };
    let in_flight = u64::from(in_flight(spec, plan, stage, micro_batches));
    let tokens = u64::from(spec.training.micro_batch) * u64::from(spec.data.seq_len);
    let names = match own {
        [one] => one.to_string(),
        [first, .., last] => format!("{first} … {last}"),
        [] => String::new(),
    };
    StageReport {
        layers: cut.clone(),
        names,
        parameters: held,
        flops_share: share(cut),
        weight_bytes: weight_bytes(spec.training.dtype) * (held + mirror),
        gradient_bytes: accumulator_bytes(spec) * (held + mirror),
        optimizer_bytes: 2 * FLOAT_BYTES * held.div_ceil(u64::from(plan.lanes)),
        activation_bytes: tokens * activations_per_token(spec, own, in_flight),
        workers: (0..plan.lanes)
            .map(|lane| plan.workers[(lane * plan.stage_count() + stage) as usize].to_string())
            .collect(),
    }
}

/// What `in_flight` micro-batches keep, and with `recompute` the block whose activations exist at the moment.
fn activations_per_token(spec: &JobSpec, own: &[LayerId], in_flight: u64) -> u64 {
    let (model, recompute, dtype) = (&spec.model, spec.training.recompute, spec.training.dtype);
    let kept: u64 = own.iter().map(|l| kept_bytes(model, *l, recompute, dtype)).sum();
    let at_work = match recompute {
        Recompute::None => 0,
        Recompute::Block => own
            .iter()
            .map(|l| activation_bytes(model, *l, dtype) - kept_bytes(model, *l, recompute, dtype))
            .max()
            .unwrap_or(0),
    };
    in_flight * kept + at_work
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} parameters, {} stages x {} lanes, {} tokens and {:.1} GFLOP a step",
            self.parameters,
            self.stages.len(),
            self.lanes,
            self.tokens_per_step,
            self.flops_per_step as f64 / 1e9
        )?;
        writeln!(
            f,
            "{} micro-batches a lane: bubble {:.1} %, slowest stage {:.2} x the mean",
            self.micro_batches_per_lane,
            100.0 * self.bubble_share,
            self.imbalance
        )?;
        writeln!(
            f,
            "\n{:<6}{:<22}{:>12}{:>8}{:>12}{:>12}{:>12}{:>12}  workers",
            "stage", "layers", "parameters", "work", "weights", "gradients", "optimizer", "activations"
        )?;
        for (n, s) in self.stages.iter().enumerate() {
            writeln!(
                f,
                "{n:<6}{:<22}{:>12}{:>7.1}%{:>12}{:>12}{:>12}{:>12}  {}",
                s.names,
                s.parameters,
                100.0 * s.flops_share,
                mib(s.weight_bytes),
                mib(s.gradient_bytes),
                mib(s.optimizer_bytes),
                mib(s.activation_bytes),
                s.workers.join(", ")
            )?;
        }
        if !self.links.is_empty() {
            writeln!(f, "\n{:<30}{:<34}{:>14}", "bytes a step", "between", "")?;
        }
        for link in &self.links {
            writeln!(
                f,
                "{:<30}{:<34}{:>14}",
                link.what,
                link.between,
                mib(link.bytes_per_step)
            )?;
        }
        write!(f, "\n{}", self.recovery)
    }
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}
