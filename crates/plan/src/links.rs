//! What is sent in a step, and between whom.
//!
//! In: a job and a plan. Out: a line for each kind of link, with bytes a step. Counted are payloads of every step;
//! where lanes differ, as with swapped micro-batches, their mean.
//!
//! Deliberately absent: what goes now and then (evaluation, digests, exchanges of parities, checkpoints, recoveries),
//! and frames' headers.

use std::collections::BTreeMap;

use rekindle_types::{JobSpec, LayerId, Plan, Rank};
use serde::Serialize;

use crate::cost::{FLOAT_BYTES, parameters, sum_bytes};
use crate::guard::{end_guards_of, end_layer, guards_of};
use crate::swap::{is_swapped, route};

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

/// Whether this stage holds a second copy of the tied matrix.
fn holds_mirror(spec: &JobSpec, plan: &Plan, stage: u32) -> bool {
    spec.model.tie_word_embeddings && plan.stage_count() > 1 && stage + 1 == plan.stage_count()
}

/// How many micro-batches a lane sends from one stage to another, of all lanes the mean.
fn hops(spec: &JobSpec, plan: &Plan, per_lane: u32) -> BTreeMap<(u32, u32), u64> {
    let lanes = u64::from(plan.lanes.max(1));
    let swapped = match spec.recovery.swaps() {
        true => (0..spec.micro_batches()).filter(|m| is_swapped(*m)).count() as u64,
        false => 0,
    };
    let usual = match swapped {
        0 => u64::from(per_lane),
        _ => (u64::from(spec.micro_batches()) - swapped).div_ceil(lanes),
    };
    let mut hops = BTreeMap::new();
    for (is_swapped, count) in [(false, usual), (true, swapped.div_ceil(lanes))] {
        let stops = route(plan.stage_count(), is_swapped);
        for pair in stops.windows(2).filter(|_| count > 0) {
            *hops.entry((pair[0].stage, pair[1].stage)).or_default() += count;
        }
    }
    hops
}

/// Every link of a plan.
#[must_use]
pub(crate) fn links(spec: &JobSpec, plan: &Plan, layers: &[LayerId], micro_batches: u32) -> Vec<LinkReport> {
    let mut links = Vec::new();
    let mut push = |what: &str, between: String, bytes_per_step| {
        links.push(LinkReport {
            what: what.to_owned(),
            between,
            bytes_per_step,
        });
    };
    let each = u64::from(spec.training.micro_batch)
        * u64::from(spec.data.seq_len)
        * u64::from(spec.model.hidden_size)
        * FLOAT_BYTES;
    for ((from, to), count) in hops(spec, plan, micro_batches) {
        push(
            "activations",
            format!("stage {from} → {to}, each lane"),
            count * each,
        );
        push(
            "gradients of activations",
            format!("stage {to} → {from}, each lane"),
            count * each,
        );
    }
    let (lanes, each) = (u64::from(plan.lanes), sum_bytes(spec.training.numerics));
    for (s, cut) in plan.stages.iter().enumerate().filter(|_| lanes > 1) {
        let held: u64 = layers[cut.start as usize..cut.end as usize]
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
        let own = layers[cut.start as usize..cut.end as usize].iter();
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
    let guarded = end_guards_of(spec, plan);
    let ends = guarded.keys().map(|rank| plan.rank(*rank));
    for Rank { stage: end, .. } in ends.filter(|rank| rank.lane == 0) {
        let beside = if end == 0 { 1 } else { end - 1 };
        push(
            "gradients to the ends' copies",
            format!("stage {end} → {beside}, each lane"),
            parameters(&spec.model, end_layer(end)).div_ceil(lanes) * FLOAT_BYTES,
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
