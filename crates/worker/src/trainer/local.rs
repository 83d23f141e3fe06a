//! This rank's state where a successor finds it: in shared memory of the worker, without a copy.
//!
//! A layer of which this rank owns nothing has its weights written in place, by the lanes that own it; those (a norm
//! of a few elements, with many lanes) are copied, in turns. A tied mirror isn't kept: its owner sends it again.
//!
//! Deliberately absent: state on a CUDA device. It lies in the device's memory, which goes with the process.

use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use rekindle_compute::StateMemory;
use rekindle_types::spec::RecoverySource;
use rekindle_types::{DeviceId, LayerId, StateKind};
use rekindle_vault::{Entry, VaultError};

use super::context::Context;
use super::keep::{Keep, PAGE, pages};
use super::left::{Whose, forget_older};
use super::{Engine, TrainerError};

/// Keeps the state of the last step for a successor.
pub struct Local {
    keep: Keep,
    copies: Vec<Copied>,
}

/// Weights that are written in place, and two places for copies of them.
struct Copied {
    layer: LayerId,
    bytes: usize,
    places: [NonNull<u8>; 2],
}

// SAFETY: the places are memory of the arena that nobody else was given, used by whoever holds the `Local` mutably.
unsafe impl Send for Copied {}

impl Local {
    /// Shared memory for this trainer's state; none where the job doesn't want it, or it can't be had or used, which
    /// is logged.
    #[must_use]
    pub fn new(folder: Option<&Path>, context: &Context, device: DeviceId) -> Option<Self> {
        let folder = folder?;
        if !context.spec.recovery.sources.contains(&RecoverySource::Local) {
            return None;
        }
        if device != DeviceId::Cpu {
            let why = "it lies in the device's memory and is lost with this process";
            tracing::warn!(%device, why, "state isn't kept in the worker's memory");
            return None;
        }
        match Self::create(folder, context) {
            Ok(local) => Some(local),
            Err(error) => {
                tracing::warn!(%error, "state isn't kept in the worker's memory");
                None
            }
        }
    }

    fn create(folder: &Path, context: &Context) -> Result<Self, VaultError> {
        let own = Whose::Own(context.id());
        let path = own.file(folder, context);
        let keep = Keep::create(&path, room(context), &own.identity(context))?;
        let mut copies = Vec::new();
        for layer in context.layers() {
            let bytes = 4 * context.numel(layer);
            if !context.owned(layer).is_empty() {
                continue;
            }
            if let (Some(a), Some(b)) = (keep.take(bytes), keep.take(bytes)) {
                let places = [a, b];
                copies.push(Copied { layer, bytes, places });
            }
        }
        Ok(Self { keep, copies })
    }

    /// Where the engine's state is to lie.
    #[must_use]
    pub fn memory(&self) -> Arc<dyn StateMemory> {
        self.keep.memory()
    }

    /// Before the update of `step`: only the state before it is kept, the memory of older ones is free.
    pub fn make_room(&mut self, step: u64) {
        self.keep.make_room(step);
    }

    /// After the update of `step`, all weights taken: a successor may go on from here.
    ///
    /// # Errors
    /// [`TrainerError`] when the state can't be held.
    pub fn keep(&mut self, step: u64, engine: &Engine) -> Result<(), TrainerError> {
        let mut entries = Vec::with_capacity(self.copies.len());
        for copied in &self.copies {
            let source = engine.weight_bytes(copied.layer, 0..copied.bytes / 4)?;
            // SAFETY: the place has this many bytes and belongs to this value; the step that it held before was
            // retired two updates ago.
            let place = unsafe {
                std::slice::from_raw_parts_mut(copied.places[(step % 2) as usize].as_ptr(), copied.bytes)
            };
            place.copy_from_slice(&source);
            entries.push(self.entry(copied, place)?);
        }
        self.keep.publish(step, engine.freeze_whole()?, entries)
    }

    fn entry(&self, copied: &Copied, place: &[u8]) -> Result<Entry, TrainerError> {
        let all = 0..copied.bytes / 4;
        self.keep.entry(copied.layer, StateKind::Weights, all, place)
    }

    /// Removes what trainers of older epochs of this rank left: this one has a state of its own.
    pub fn forget_older(&self, context: &Context) {
        if let Some(folder) = self.keep.path().parent() {
            forget_older(folder, context, |whose| whose == Whose::Own(context.id()));
        }
    }
}

/// Bytes that the state, as many spare buffers and the job's pool take, each buffer in whole pages.
fn room(context: &Context) -> u64 {
    let mut state = 0;
    for layer in context.layers() {
        let (numel, owned) = (context.numel(layer), context.owned(layer).len());
        state += pages(numel) + 2 * pages(owned) + if owned == 0 { pages(numel) } else { 0 };
    }
    if context.holds_mirror() {
        state += pages(context.numel(LayerId::Embed));
    }
    // The pool has at most one spare for each buffer, and a part of a page more for each.
    let pages_more = 3 * PAGE * context.layers().count() as u64;
    let pool = match context.spec.checkpoint.is_on() {
        true => state.min(context.spec.checkpoint.pool.0 + pages_more),
        false => 0,
    };
    2 * state + pool
}
