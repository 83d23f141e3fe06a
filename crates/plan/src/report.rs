//! What a plan means, for a person, before anything runs.

use std::fmt;
use std::ops::Range;

use rekindle_types::{Dtype, JobSpec, LayerId, Numerics, Plan, Rank};
use serde::Serialize;

use crate::cost::{FLOAT_BYTES, parameters, step_flops, work_flops};
use crate::dispatch::micro_batches_of;
use crate::guard::guards_of;
use crate::memory::{Memory, On, memory, write_table};
use crate::schedule::bubble_share;
use crate::survival::{SurvivalReport, survival};

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

/// Bytes a step on one link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkReport {
    /// What for.
    pub what: String,
    /// From whom to whom.
    pub between: String,
    /// Bytes a step.
    pub bytes_per_step: u64,
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
        bubble_share: bubble_share(plan.stage_count(), per_lane),
        imbalance: worst * plan.stages.len() as f64,
        stages,
        links: links(spec, plan, &layers, per_lane),
        recovery: survival(spec, plan),
    }
}

fn range(r: &Range<u32>) -> Range<usize> {
    r.start as usize..r.end as usize
}

fn accumulator_bytes(spec: &JobSpec) -> u64 {
    match spec.training.numerics {
        Numerics::Exact => 8,
        Numerics::Fast => 4,
    }
}

/// Whether this stage holds a second copy of the tied matrix.
fn holds_mirror(spec: &JobSpec, plan: &Plan, stage: u32) -> bool {
    spec.model.tie_word_embeddings && plan.stage_count() > 1 && stage + 1 == plan.stage_count()
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

fn links(spec: &JobSpec, plan: &Plan, layers: &[LayerId], micro_batches: u32) -> Vec<LinkReport> {
    let mut links = Vec::new();
    let mut push = |what: &str, between: String, bytes_per_step| {
        links.push(LinkReport {
            what: what.to_owned(),
            between,
            bytes_per_step,
        });
    };
    let boundary = u64::from(micro_batches)
        * u64::from(spec.training.micro_batch)
        * u64::from(spec.data.seq_len)
        * u64::from(spec.model.hidden_size)
        * FLOAT_BYTES;
    for s in 1..plan.stage_count() {
        push(
            "activations",
            format!("stage {} → {s}, each lane", s - 1),
            boundary,
        );
        push(
            "gradients of activations",
            format!("stage {s} → {}, each lane", s - 1),
            boundary,
        );
    }
    let (lanes, each) = (u64::from(plan.lanes), accumulator_bytes(spec));
    for (s, cut) in plan.stages.iter().enumerate().filter(|_| lanes > 1) {
        let held: u64 = layers[range(cut)]
            .iter()
            .map(|l| parameters(&spec.model, *l))
            .sum();
        let between = |to| format!("stage {s}, each lane → {to}");
        push(
            "gradient shards",
            between("the others"),
            held * each * (lanes - 1) / lanes,
        );
        push(
            "updated weights",
            between("the others"),
            held * FLOAT_BYTES * (lanes - 1) / lanes,
        );
    }
    let guards = guards_of(spec, plan).values().map(Vec::len).max().unwrap_or(0) as u64;
    for (s, cut) in plan.stages.iter().enumerate().filter(|_| guards > 0) {
        let own = layers[range(cut)].iter();
        let held: u64 = own.map(|l| parameters(&spec.model, *l)).sum();
        push(
            "gradients to guards",
            match guards {
                1 => format!("stage {s}, each lane → its guard"),
                _ => format!("stage {s}, each lane → its {guards} guards"),
            },
            guards * held.div_ceil(lanes) * FLOAT_BYTES,
        );
    }
    let last = plan.stage_count().saturating_sub(1);
    if holds_mirror(spec, plan, last) {
        let matrix = parameters(&spec.model, LayerId::Embed);
        push(
            "gradient of the tied matrix",
            format!("stage {last} → 0, each lane"),
            matrix * each,
        );
        push(
            "tied matrix",
            format!("stage 0 → {last}, each lane"),
            matrix * FLOAT_BYTES,
        );
    }
    links
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
