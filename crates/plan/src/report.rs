//! What a plan means, for a person, before anything runs.

use std::fmt;
use std::ops::Range;

use rekindle_types::{Dtype, JobSpec, LayerId, Plan, Rank};
use serde::Serialize;

use crate::cost::{parameters, step_flops, work_flops};
use crate::dispatch::micro_batches_of;
use crate::links::{LinkReport, links};
use crate::memory::{Memory, On, memory, write_table};
use crate::schedule::bubble_share;
use crate::survival::{SurvivalReport, survival};
use crate::swap::swapped_bubble_share;

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
    /// What a trainer takes of its device's memory.
    pub memory: StageMemory,
    /// The workers that run it, lane by lane.
    pub workers: Vec<String>,
}

/// What the trainer of a stage takes, of the lane that takes the most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageMemory {
    /// On a CPU with one thread; none where the job needs a CUDA device.
    pub cpu: Option<Memory>,
    /// On a CUDA device.
    pub cuda: Memory,
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
        .map(|s| stage(spec, plan, &layers, s, &share))
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

/// Share of rank-time spent waiting; with swapped micro-batches, of the lane that waits most.
fn bubble(spec: &JobSpec, plan: &Plan, per_lane: u32) -> f64 {
    let stages = plan.stage_count();
    if !spec.recovery.swaps() {
        return bubble_share(stages, per_lane);
    }
    (0..plan.lanes)
        .map(|lane| micro_batches_of(lane, plan.lanes, spec.micro_batches()))
        .map(|all| swapped_bubble_share(stages, &all))
        .fold(0.0, f64::max)
}

/// The lane of a stage that takes the most.
fn largest(spec: &JobSpec, plan: &Plan, stage: u32, on: On) -> Memory {
    let of = |lane| memory(spec, plan, Rank { lane, stage }, on);
    (0..plan.lanes)
        .map(of)
        .max_by_key(Memory::total)
        .unwrap_or_default()
}

fn stage(
    spec: &JobSpec,
    plan: &Plan,
    layers: &[LayerId],
    stage: u32,
    share: &dyn Fn(&Range<u32>) -> f64,
) -> StageReport {
    let cut = &plan.stages[stage as usize];
    let own = &layers[range(cut)];
    let held: u64 = own.iter().map(|l| parameters(&spec.model, *l)).sum();
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
        memory: StageMemory {
            cpu: match spec.training.dtype {
                Dtype::F32 => Some(largest(spec, plan, stage, On::Cpu { threads: 1 })),
                Dtype::Bf16 => None,
            },
            cuda: largest(spec, plan, stage, On::Cuda),
        },
        workers: (0..plan.lanes)
            .map(|lane| plan.workers[(lane * plan.stage_count() + stage) as usize].to_string())
            .collect(),
    }
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
            "\n{:<6}{:<22}{:>12}{:>8}  workers",
            "stage", "layers", "parameters", "work"
        )?;
        for (n, s) in self.stages.iter().enumerate() {
            writeln!(
                f,
                "{n:<6}{:<22}{:>12}{:>7.1}%  {}",
                s.names,
                s.parameters,
                100.0 * s.flops_share,
                s.workers.join(", ")
            )?;
        }
        let on_cpu: Option<Vec<Memory>> = self.stages.iter().map(|s| s.memory.cpu).collect();
        if let Some(on_cpu) = on_cpu {
            write_table(f, "MiB on a CPU", &on_cpu)?;
        }
        let on_cuda: Vec<Memory> = self.stages.iter().map(|s| s.memory.cuda).collect();
        write_table(f, "MiB on CUDA", &on_cuda)?;
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
