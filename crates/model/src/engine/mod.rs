//! The stage: a contiguous run of layers of one lane.
//!
//! ```text
//! forward(slot, tokens | activations, targets?)  -> activations | loss       any number in flight, bounded by the schedule
//! backward(slot, gradient?, layer_done)          -> gradient of the input    layer_done(layer) once its sums have this micro-batch
//! add_gradient_bytes(layer, ..)                                              other lanes, a mirrored embedding
//! finish_gradients() -> squares                                              then the global norm, then
//! update(layer, step, lr, clip)                                              AdamW on the owned shard, sums cleared
//! freeze_state()                                                             what a checkpoint saves, held while the next step runs
//! ```
//!
//! A micro-batch may also visit embedding, blocks and head one after the other, with other stages between them
//! (`forward_part`, `backward_part`): the same bits as at once.
//!
//! The head's loss and gradient come from one pass, so the head's share of a gradient is added by `forward` (with
//! targets); `backward` reports it. A step that is given up is dropped with `discard_gradients`.

mod api;
mod block;
mod blocks;
mod error;
mod evaluate;
mod freeze;
mod gaps;
mod gradients;
mod head;
mod rope;
mod shadow;
mod slots;
mod spec;
mod state;
mod through;
mod train;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use error::{EngineError, Result};
pub use freeze::FrozenPart;
pub use gradients::{GradientSummary, GradientSums};
pub use shadow::{LayerStep, Shadow};
pub use spec::{AdamW, MemoryReport, StageInput, StageOutput, StageSpec};

use block::Pass;
use head::HeadWeights;
use rekindle_compute::Device;
use rekindle_types::{LayerId, Recompute};
use rope::Rope;
use slots::{BlockSlot, Scratch, Slot, Slots, Widths};
use state::LayerState;

/// One stage of one lane, see the module.
pub struct Stage<D: Device> {
    device: Arc<D>,
    spec: StageSpec,
    widths: Widths,
    /// The layers in pipeline order, as ids.
    ids: Vec<LayerId>,
    /// State by layer; the mirrored embedding, too.
    states: BTreeMap<LayerId, LayerState<D>>,
    mirror: bool,
    gradients: GradientSums<D>,
    slots: Slots<D>,
    /// With `recompute`: the activations of the block at work, lent to the slot of each pass. None otherwise.
    at_work: Vec<BlockSlot<D>>,
    /// For passes that keep nothing.
    spare: Option<Slot<D>>,
    scratch: Scratch<D>,
    rope: Rope<D>,
    /// How long an update waits for a frozen layer, and how long updates have waited.
    patience: Duration,
    update_wait: Duration,
    /// Whether updates make digests for the next capture.
    hashing: bool,
}

impl<D: Device> Stage<D> {
    /// Builds a stage with zero weights.
    ///
    /// # Errors
    /// [`EngineError::Spec`] naming what is impossible, or the device's error.
    pub fn new(device: Arc<D>, spec: StageSpec) -> Result<Self> {
        spec.validate()?;
        let (widths, ids) = (Widths::of(&spec, &*device), spec.layer_ids());
        let head = ids.contains(&LayerId::Head);
        let mirror = head && spec.model.tie_word_embeddings && !ids.contains(&LayerId::Embed);
        let blocks = ids.iter().filter(|l| matches!(l, LayerId::Block(_))).count();
        let mut gradients = GradientSums::new(Arc::clone(&device), spec.sum_kind(), spec.tokens_per_step);
        let mut states = BTreeMap::new();
        let held = ids
            .iter()
            .map(|&l| (l, Some((spec.lanes, spec.lane))))
            .chain(mirror.then_some((LayerId::Embed, None)));
        for (layer, shard) in held {
            let state = LayerState::new(&*device, spec.model.layout(layer), shard)?;
            gradients.insert(layer, state.layout.numel(), state.owned.clone())?;
            states.insert(layer, state);
        }
        let (scratch, rope) = (
            Scratch::new(&*device, &widths, blocks > 0, head)?,
            Rope::new(&*device, &spec)?,
        );
        let shared = usize::from(spec.recompute == Recompute::Block && blocks > 0);
        let slots = Slots::new(blocks, if shared > 0 { 0 } else { blocks });
        let at_work = (0..shared)
            .map(|_| BlockSlot::new(&*device, &widths))
            .collect::<Result<_>>()?;
        Ok(Self {
            device,
            spec,
            widths,
            ids,
            states,
            mirror,
            gradients,
            slots,
            at_work,
            spare: None,
            scratch,
            rope,
            patience: freeze::PATIENCE,
            update_wait: Duration::ZERO,
            hashing: false,
        })
    }

    fn state(&self, layer: LayerId) -> Result<&LayerState<D>> {
        self.states.get(&layer).ok_or(EngineError::Layer { layer })
    }

    fn state_mut(&mut self, layer: LayerId) -> Result<&mut LayerState<D>> {
        self.states.get_mut(&layer).ok_or(EngineError::Layer { layer })
    }

    fn blocks(&self) -> Vec<LayerId> {
        self.ids
            .iter()
            .copied()
            .filter(|l| matches!(l, LayerId::Block(_)))
            .collect()
    }

    fn has(&self, layer: LayerId) -> bool {
        self.ids.contains(&layer)
    }
}

fn pass<'a, D: Device>(
    device: &'a D,
    widths: &'a Widths,
    rope: &'a Rope<D>,
    spec: &StageSpec,
    (sequences, seq_len): (usize, usize),
) -> Pass<'a, D> {
    Pass {
        device,
        widths,
        rope,
        attention: spec.attention(sequences, seq_len),
        eps: spec.model.rms_norm_eps,
    }
}

fn head_weights<'a, D: Device>(
    states: &'a BTreeMap<LayerId, LayerState<D>>,
    tied: bool,
) -> Result<HeadWeights<'a, D>> {
    let get = |layer| states.get(&layer).ok_or(EngineError::Layer { layer });
    let embed = if tied { Some(get(LayerId::Embed)?) } else { None };
    Ok(HeadWeights::of(get(LayerId::Head)?, embed))
}
