//! From a job and the free trainer slots to a plan.

use std::ops::Range;

use rekindle_types::spec::Auto;
use rekindle_types::{Epoch, JobId, JobSpec, Plan, WorkerId};

use crate::cost::work_flops;
use crate::cut::minimax;

/// Room for one trainer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The worker that has it.
    pub worker: WorkerId,
    /// Processor threads a trainer gets there.
    pub threads: u32,
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Wait, or start more workers.
    #[error(
        "the job needs {needed} free trainer slots, there are {free}; start more workers or lower [parallelism]"
    )]
    NotEnoughWorkers {
        /// Slots the job needs.
        needed: u32,
        /// Slots that are free.
        free: u32,
    },
    /// Fix the job.
    #[error("{stages} stages for {layers} layers (blocks + embedding + head); lower parallelism.pipeline")]
    TooManyStages {
        /// Stages asked for.
        stages: u32,
        /// Layers there are.
        layers: u32,
    },
}

/// Chooses stages, lanes, the layer cut and a worker for each rank.
///
/// `free` holds one entry per free slot. `data = "auto"` is one lane; `pipeline = "auto"` takes every free slot, up
/// to one layer a stage. Ranks are spread over distinct workers before a worker gets a second one.
///
/// # Errors
/// [`PlaceError`]: not enough slots yet, or a cut that can't be.
pub fn place(job: &JobId, epoch: Epoch, spec: &JobSpec, free: &[Slot]) -> Result<Plan, PlaceError> {
    let layers = spec.model.num_hidden_layers + 2;
    let slots = u32::try_from(free.len()).unwrap_or(u32::MAX);
    let lanes = match spec.parallelism.data {
        Auto::Auto => 1,
        Auto::Count(lanes) => lanes.max(1),
    };
    let stages = match spec.parallelism.pipeline {
        Auto::Auto => (slots / lanes).clamp(1, layers),
        Auto::Count(stages) => stages.max(1),
    };
    if stages > layers {
        return Err(PlaceError::TooManyStages { stages, layers });
    }
    let needed = lanes.saturating_mul(stages);
    if needed > slots {
        return Err(PlaceError::NotEnoughWorkers { needed, free: slots });
    }
    let cuts = cut_into(spec, stages).ok_or(PlaceError::TooManyStages { stages, layers })?;
    Ok(Plan {
        job: job.clone(),
        epoch,
        lanes,
        stages: cuts,
        workers: spread(free, needed as usize),
    })
}

/// The layers of each of so many stages; none where there are fewer layers. With swapped micro-batches every stage
/// has blocks: embedding and head go with the block beside them, and there are as many stages as blocks at most.
pub(crate) fn cut_into(spec: &JobSpec, stages: u32) -> Option<Vec<Range<u32>>> {
    let costs = layer_costs(spec);
    if !spec.recovery.swaps() {
        return minimax(&costs, stages as usize);
    }
    let [embed, blocks @ .., head] = costs.as_slice() else {
        return None;
    };
    let mut blocks = blocks.to_vec();
    *blocks.first_mut()? += embed;
    *blocks.last_mut()? += head;
    let (last, cuts) = (blocks.len() as u32, minimax(&blocks, stages as usize)?);
    let layers = |cut: Range<u32>| {
        let start = if cut.start == 0 { 0 } else { cut.start + 1 };
        let end = if cut.end == last { last + 2 } else { cut.end + 1 };
        start..end
    };
    Some(cuts.into_iter().map(layers).collect())
}

/// Operations of each layer in a step, per token. An embedding costs a little, so that it isn't cut off alone for
/// nothing.
fn layer_costs(spec: &JobSpec) -> Vec<u64> {
    let model = &spec.model;
    model
        .layers()
        .map(|layer| {
            work_flops(model, layer, spec.data.seq_len, spec.training.recompute)
                + u64::from(model.hidden_size)
        })
        .collect()
}

/// The first `count` slots, taking one of every worker before a second of any.
fn spread(free: &[Slot], count: usize) -> Vec<WorkerId> {
    let mut seen = std::collections::BTreeMap::<&WorkerId, usize>::new();
    let mut turns: Vec<(usize, &WorkerId)> = free
        .iter()
        .map(|slot| {
            let turn = seen.entry(&slot.worker).or_default();
            *turn += 1;
            (*turn, &slot.worker)
        })
        .collect();
    turns.sort();
    turns
        .into_iter()
        .take(count)
        .map(|(_, worker)| worker.clone())
        .collect()
}
