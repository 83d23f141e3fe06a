//! Shadows: this rank's guard repeats its updates, and this rank repeats those of the ranks it guards (its wards).
//!
//! ```text
//!   begin:         what I own -> my guard                     of each ward: all it owns
//!   before commit: my reduced gradient -> my guard            each ward's gradient
//!   after commit:  (my own update)                            each ward's update, published in the worker's memory
//! ```
//!
//! Invariant
//! - WK-7 A rank adds its sums at the commit point of a step only when it has its wards' gradients of that step and has published their state
//!   before it. So VA-2 holds for what a rank owns at its guard as well as at the rank (if that computes on a CPU).
//!
//! Sends and receipts take turns, piece by piece, every rank in the same order: so a guard holds at most a few pieces that it hasn't asked for.
//! Shadows lie in shared memory and are updated by the processor, also where the ranks compute on CUDA devices: AdamW has the same bits on both.
//! A rank on such a device keeps no state of its own there ([`super::local`]), so that its guard's is the only one that outlives it.
//!
//! Where the worker has no memory for a shadow, it is said in the log, and what the ward sends is dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rekindle_compute::AnyDevice;
use rekindle_model::Shadow;
use rekindle_transport::{Frame, Tag, TagKind};
use rekindle_types::{LayerId, RankId, StateKind};
use rekindle_vault::VaultError;

use super::context::{Context, SharedTransport};
use super::device::Computing;
use super::keep::{Keep, pages};
use super::left::{Whose, forget_older};
use super::{Engine, TrainerError, setup};

/// A shadow and the memory it lies in.
struct Kept {
    shadow: Shadow<AnyDevice>,
    keep: Keep,
}

/// A rank that this one guards.
struct Ward {
    id: RankId,
    /// What it owns something of, in pipeline order.
    layers: Vec<LayerId>,
    /// None: there is no memory for it.
    kept: Option<Kept>,
}

/// This rank's side of all shadows that it has to do with; empty where the job wants none.
#[derive(Default)]
pub struct Shadows {
    folder: Option<PathBuf>,
    wards: Vec<Ward>,
}

/// What is sent of a rank's state, in order.
pub fn pieces(context: &Context, rank: RankId) -> Vec<(LayerId, StateKind)> {
    let layers = context.owned_layers(rank).into_iter();
    layers
        .flat_map(|layer| StateKind::ALL.map(|kind| (layer, kind)))
        .collect()
}

/// The tag of a piece of a rank's state.
pub fn piece_tag(kind: TagKind, step: u64, context: &Context, (layer, of): (LayerId, StateKind)) -> Tag {
    let part = match of {
        StateKind::Weights => 0,
        StateKind::ExpAvg => 1,
        StateKind::ExpAvgSq => 2,
    };
    Tag::new(kind, step, context.index_of(layer)).with_part(part)
}

impl Shadows {
    /// Makes room for the shadows of all ranks that this one guards.
    ///
    /// # Errors
    /// [`TrainerError`] when a shadow can't be built.
    pub fn new(folder: Option<&Path>, context: &Context, computing: Computing) -> Result<Self, TrainerError> {
        let wards = context.wards().map(|id| {
            let kept = match folder {
                Some(folder) => kept(folder, context, id, computing)?,
                None => None,
            };
            let layers = context.owned_layers(id);
            Ok(Ward { id, layers, kept })
        });
        Ok(Self {
            wards: wards.collect::<Result<_, TrainerError>>()?,
            folder: folder.map(Path::to_owned),
        })
    }

    /// Before the first step: the guard gets the state after `step`, and the wards' is taken and published.
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost.
    pub fn begin(
        &mut self,
        context: &Context,
        transport: &SharedTransport,
        engine: &Engine,
        step: u64,
    ) -> Result<(), TrainerError> {
        let own = pieces(context, context.id());
        let theirs: Vec<_> = self.wards.iter().map(|ward| pieces(context, ward.id)).collect();
        let most = theirs.iter().map(Vec::len).max().unwrap_or(0).max(own.len());
        for turn in 0..most {
            if let (Some(guard), Some(&(layer, kind))) = (context.guard(), own.get(turn)) {
                let bytes = engine.state_bytes(layer, kind, context.owned(layer))?;
                let payload = transport.pool().copy_of(&bytes).into();
                let tag = piece_tag(TagKind::ShadowState, step, context, (layer, kind));
                transport.send(guard, tag, payload, context.deadline())?;
            }
            for (ward, pieces) in self.wards.iter_mut().zip(&theirs) {
                let Some(&(layer, kind)) = pieces.get(turn) else {
                    continue;
                };
                let tag = piece_tag(TagKind::ShadowState, step, context, (layer, kind));
                let frame = transport.recv(ward.id, tag, context.deadline())?;
                let range = context.owned_by(ward.id, layer);
                if let Some(Kept { shadow, .. }) = &mut ward.kept {
                    shadow.set_state_bytes(layer, kind, range, frame.bytes())?;
                }
            }
        }
        self.publish(step)
    }

    /// The guard gets the reduced gradient of `layer`, number `turn` of those that this rank owns something of from the last to the first; the
    /// wards' of the same number are taken.
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost.
    pub fn exchange(
        &mut self,
        context: &Context,
        transport: &SharedTransport,
        engine: &Engine,
        (step, turn, layer): (u64, usize, LayerId),
    ) -> Result<(), TrainerError> {
        if let Some(guard) = context.guard() {
            let payload = transport.pool().copy_of(&engine.final_gradient(layer)?).into();
            let tag = Tag::new(TagKind::ShadowGrad, step, context.index_of(layer));
            transport.send(guard, tag, payload, context.deadline())?;
        }
        self.take(context, transport, step, turn)
    }

    /// Takes the gradients of wards that own something of more layers than this rank, which is through with its `turn` own ones.
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost.
    pub fn take_rest(
        &mut self,
        context: &Context,
        transport: &SharedTransport,
        step: u64,
        turn: usize,
    ) -> Result<(), TrainerError> {
        let most = self.wards.iter().map(|ward| ward.layers.len()).max();
        (turn..most.unwrap_or(0)).try_for_each(|turn| self.take(context, transport, step, turn))
    }

    fn take(
        &mut self,
        context: &Context,
        transport: &SharedTransport,
        step: u64,
        turn: usize,
    ) -> Result<(), TrainerError> {
        for ward in &mut self.wards {
            if let Some(&layer) = ward.layers.iter().rev().nth(turn) {
                let tag = Tag::new(TagKind::ShadowGrad, step, context.index_of(layer));
                let frame: Frame = transport.recv(ward.id, tag, context.deadline())?;
                if let Some(Kept { shadow, .. }) = &mut ward.kept {
                    shadow.set_gradient(layer, frame.bytes())?;
                }
            }
        }
        Ok(())
    }

    /// After the commit of `step`: the wards' updates.
    ///
    /// # Errors
    /// [`TrainerError`] when the state can't be held.
    pub fn update(&mut self, context: &Context, step: u64, clip: f64) -> Result<(), TrainerError> {
        let rate = |layer| {
            let rate = context.rate(layer, step);
            (rate.count, rate.lr)
        };
        for Kept { shadow, keep } in self.wards.iter_mut().filter_map(|ward| ward.kept.as_mut()) {
            keep.make_room(step);
            shadow.update(rate, clip)?;
        }
        self.publish(step)
    }

    fn publish(&mut self, step: u64) -> Result<(), TrainerError> {
        for Kept { shadow, keep } in self.wards.iter_mut().filter_map(|ward| ward.kept.as_mut()) {
            keep.publish(step, shadow.freeze_state()?, Vec::new())?;
        }
        Ok(())
    }

    /// After the first commit of an epoch every rank and every guard has published a state of it: what older ones left on this worker, of any
    /// rank, can go.
    pub fn forget_older(&self, context: &Context) {
        if let Some(folder) = self.folder.as_ref().filter(|_| !context.guards.is_empty()) {
            // Sets of parities serve until there are newer ones.
            forget_older(folder, context, |whose| !matches!(whose, Whose::Parity(_)));
        }
    }
}

/// A shadow of `ward` in the worker's memory; none, and a warning, where there is no room.
fn kept(
    folder: &Path,
    context: &Context,
    ward: RankId,
    computing: Computing,
) -> Result<Option<Kept>, TrainerError> {
    let whose = Whose::Guarded(ward);
    let made: Result<Keep, VaultError> = Keep::create(
        &whose.file(folder, context),
        room(context, ward),
        &whose.identity(context),
    );
    match made {
        Ok(keep) => {
            let device = Arc::new(computing.cpu(Some(keep.memory()))?);
            let mut shadow = Shadow::new(device, setup::stage_of(context, context.plan.rank(ward)))?;
            shadow.reserve_whole()?;
            Ok(Some(Kept { shadow, keep }))
        }
        Err(error) => {
            tracing::warn!(%error, %ward, "the rank's shadow isn't kept");
            Ok(None)
        }
    }
}

/// Bytes that what a rank owns and as many spare buffers take.
fn room(context: &Context, rank: RankId) -> u64 {
    let owned = |layer| pages(context.owned_by(rank, layer).len());
    let layers = context.owned_layers(rank).into_iter();
    2 * 3 * layers.map(owned).sum::<u64>()
}
