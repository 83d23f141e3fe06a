//! Shadows: this rank's guards repeat its updates, and this rank repeats those of the ranks it guards (its wards).
//!
//! ```text
//!   begin:           what I own -> my guards                       of each ward: all it owns
//!   backward:        each layer's reduced gradient -> my guards
//!   before commit:                                                 each ward's update of the step before is published; its gradients
//!   until the next:  (my own update, forward, backward)            each ward's update, on a thread of its own ([`super::updater`])
//! ```
//!
//! Invariant
//! - WK-7 A rank adds its sums at the commit point of a step only when it has its wards' gradients of that step and
//!   has published their state before it. So VA-2 holds for what a rank owns at its guards as well as at the rank (if
//!   that computes on a CPU).
//!
//! State is sent and taken in turns, piece by piece, every rank in the same order: so a guard holds at most a few
//! pieces that it hasn't asked for. Gradients come unasked while the guard computes: its inbox has room for all that
//! a ward owns (4 bytes an element), and a ward's outbox, too ([`super::connect`]), so nobody waits with one for a
//! guard that waits for something behind it. With those that its updater reads a guard holds 8 bytes an element at
//! most. Shadows lie in shared memory and are updated by the processor, also where the ranks compute on CUDA devices:
//! AdamW has the same bits on both. A rank on such a device keeps no state of its own there ([`super::local`]), so
//! that its guards' are the only ones that outlive it.
//!
//! In a job that swaps micro-batches only the ends of the pipeline have guards, for the embedding and the head alone
//! ([`Context::guarded_layers`]).
//!
//! Where the worker has no memory for a shadow, it is said in the log, and what the ward sends is dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rekindle_compute::AnyDevice;
use rekindle_model::{GradientSums, Shadow};
use rekindle_transport::{Buffer, ByteOwner, Payload, Tag, TagKind};
use rekindle_types::{LayerId, RankId, StateKind};
use rekindle_vault::VaultError;

use super::context::{Context, SharedTransport};
use super::device::Computing;
use super::keep::{Keep, pages};
use super::left::{Whose, forget_older};
use super::updater::{Gradients, Kept, Update, Updater};
use super::{Engine, TrainerError, setup};

/// A rank that this one guards.
struct Ward {
    id: RankId,
    /// What is kept of it, in pipeline order.
    layers: Vec<LayerId>,
    /// Whether there is memory for it.
    is_kept: bool,
}

/// This rank's side of all shadows that it has to do with; empty where the job wants none.
#[derive(Default)]
pub struct Shadows {
    folder: Option<PathBuf>,
    wards: Vec<Ward>,
    /// The wards' shadows before the first step; afterwards the updater has them.
    kept: Vec<Kept>,
    /// None: there is nothing to update.
    updater: Option<Updater>,
    /// The wards' of the step in flight.
    gradients: Gradients,
}

/// What is sent of a rank's state, in order.
pub fn pieces(context: &Context, rank: RankId) -> Vec<(LayerId, StateKind)> {
    let layers = context.owned_layers(rank).into_iter();
    layers
        .flat_map(|layer| StateKind::ALL.map(|kind| (layer, kind)))
        .collect()
}

/// What of that its guards keep: where other lanes have the weights, moments alone; in a job that swaps, embedding
/// and head alone.
pub fn guarded_pieces(context: &Context, rank: RankId) -> Vec<(LayerId, StateKind)> {
    let mut all = pieces(context, rank);
    all.retain(|(_, kind)| *kind != StateKind::Weights || !context.guards_keep_moments_alone());
    all.retain(|(layer, _)| context.is_guarded(*layer));
    all
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
    pub fn new(folder: Option<&Path>, context: &Context) -> Result<Self, TrainerError> {
        let (mut wards, mut all) = (Vec::new(), Vec::new());
        for id in context.wards() {
            let kept = match folder {
                Some(folder) => kept(folder, context, id)?,
                None => None,
            };
            wards.push(Ward {
                id,
                layers: context.guarded_layers(id),
                is_kept: kept.is_some(),
            });
            all.extend(kept);
        }
        Ok(Self {
            wards,
            folder: folder.map(Path::to_owned),
            kept: all,
            ..Self::default()
        })
    }

    /// Before the first step: the guards get the state after `step`, and the wards' is taken and published.
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
        let own = guarded_pieces(context, context.id());
        let wards = self.wards.iter();
        let theirs: Vec<_> = wards.map(|ward| guarded_pieces(context, ward.id)).collect();
        let most = theirs.iter().map(Vec::len).max().unwrap_or(0).max(own.len());
        for turn in 0..most {
            if let (false, Some(&(layer, kind))) = (context.own_guards().is_empty(), own.get(turn)) {
                let bytes = engine.state_bytes(layer, kind, context.owned(layer))?;
                let tag = piece_tag(TagKind::ShadowState, step, context, (layer, kind));
                to_guards(context, transport, tag, transport.pool().copy_of(&bytes))?;
            }
            for (ward, pieces) in self.wards.iter().zip(&theirs) {
                let Some(&(layer, kind)) = pieces.get(turn) else {
                    continue;
                };
                let tag = piece_tag(TagKind::ShadowState, step, context, (layer, kind));
                let frame = transport.recv(ward.id, tag, context.deadline())?;
                let range = context.owned_by(ward.id, layer);
                if let Some(kept) = self.kept.iter_mut().find(|kept| kept.ward == ward.id) {
                    kept.shadow.set_state_bytes(layer, kind, range, frame.bytes())?;
                }
            }
        }
        self.kept.iter_mut().try_for_each(|kept| kept.publish(step))?;
        if !self.kept.is_empty() {
            self.updater = Some(Updater::start(std::mem::take(&mut self.kept))?);
        }
        Ok(())
    }

    /// Before the sums of the commit point of `step`: the wards' states of the step before are published, and their
    /// gradients of this one are here (WK-7).
    ///
    /// # Errors
    /// [`TrainerError`] when the update of the step before failed, or a peer is lost.
    pub fn take_gradients(
        &mut self,
        context: &Context,
        transport: &SharedTransport,
        step: u64,
    ) -> Result<(), TrainerError> {
        self.finish(context)?;
        self.gradients.clear();
        for ward in &self.wards {
            for &layer in ward.layers.iter().rev() {
                let tag = Tag::new(TagKind::ShadowGrad, step, context.index_of(layer));
                let frame = transport.recv(ward.id, tag, context.deadline())?;
                if ward.is_kept {
                    self.gradients.entry(ward.id).or_default().insert(layer, frame);
                }
            }
        }
        Ok(())
    }

    /// After the commit of `step`: starts the wards' updates.
    ///
    /// # Errors
    /// [`TrainerError`] when there is nobody to do them.
    pub fn update(&mut self, context: &Context, step: u64, clip: f64) -> Result<(), TrainerError> {
        let layers = self.wards.iter().flat_map(|ward| &ward.layers);
        let update = Update {
            step,
            clip,
            rates: layers.map(|layer| (*layer, context.rate(*layer, step))).collect(),
            gradients: std::mem::take(&mut self.gradients),
        };
        self.updater
            .as_mut()
            .map_or(Ok(()), |updater| updater.begin(update))
    }

    /// Waits until the wards' states are published of all steps that were committed.
    ///
    /// # Errors
    /// What their updates met.
    pub fn finish(&mut self, context: &Context) -> Result<(), TrainerError> {
        self.updater
            .as_mut()
            .map_or(Ok(()), |updater| updater.wait(context.patience))
    }

    /// After the first commit of an epoch every rank and every guard has published a state of it: what older ones
    /// left on this worker, of any rank, can go.
    pub fn forget_older(&self, context: &Context) {
        if let Some(folder) = self.folder.as_ref().filter(|_| !context.guards.is_empty()) {
            // Sets of parities serve until there are newer ones.
            forget_older(folder, context, |whose| !matches!(whose, Whose::Parity(_)));
        }
    }
}

/// All guards of this rank get the same bytes.
fn to_guards(
    context: &Context,
    transport: &SharedTransport,
    tag: Tag,
    bytes: Buffer,
) -> Result<(), TrainerError> {
    let bytes: Arc<dyn ByteOwner> = Arc::new(bytes);
    for guard in context.own_guards() {
        transport.send(
            *guard,
            tag,
            Payload::shared(Arc::clone(&bytes)),
            context.deadline(),
        )?;
    }
    Ok(())
}

/// The guards get the mean gradient of what this rank owns of `layer`. Nothing where it has none, or they don't keep
/// that layer.
///
/// # Errors
/// [`TrainerError`] when a guard is lost.
pub fn send_gradient(
    context: &Context,
    transport: &SharedTransport,
    sums: &mut GradientSums<AnyDevice>,
    (step, layer): (u64, LayerId),
) -> Result<(), TrainerError> {
    if context.own_guards().is_empty() || !context.is_guarded(layer) {
        return Ok(());
    }
    let mut gradient = transport.pool().take(4 * context.owned(layer).len());
    sums.write_mean(layer, bytemuck::cast_slice_mut(&mut gradient))?;
    let tag = Tag::new(TagKind::ShadowGrad, step, context.index_of(layer));
    to_guards(context, transport, tag, gradient)
}

/// A shadow of `ward` in the worker's memory; none, and a warning, where there is no room.
fn kept(folder: &Path, context: &Context, ward: RankId) -> Result<Option<Kept>, TrainerError> {
    let whose = Whose::Guarded(ward);
    let made: Result<Keep, VaultError> = Keep::create(
        &whose.file(folder, context),
        room(context, ward),
        &whose.identity(context),
    );
    match made {
        Ok(keep) => {
            let device = Arc::new(Computing::beside(Some(keep.memory()))?);
            let stage = setup::guarded_stage_of(context, context.plan.rank(ward));
            let mut shadow = Shadow::new(device, stage, !context.guards_keep_moments_alone())?;
            shadow.reserve_whole()?;
            Ok(Some(Kept { ward, shadow, keep }))
        }
        Err(error) => {
            tracing::warn!(%error, %ward, "the rank's shadow isn't kept");
            Ok(None)
        }
    }
}

/// Bytes that what is kept of a rank and as many spare buffers take.
fn room(context: &Context, rank: RankId) -> u64 {
    let kept = |(layer, _)| pages(context.owned_by(rank, layer).len());
    2 * guarded_pieces(context, rank).into_iter().map(kept).sum::<u64>()
}
