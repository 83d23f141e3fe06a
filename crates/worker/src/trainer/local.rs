//! This rank's state where a successor finds it: in shared memory of the worker, without a copy.
//!
//! ```text
//!   begin: what did a trainer of this rank leave? -> its steps, offered with Ready
//!   update of step s writes beside the state of s-1; then keep(s): the table says where the state of s is
//!   make_room(s+1), before the update of s+1: s-1 is let go, its memory is what that update writes
//! ```
//!
//! A layer of which this rank owns nothing has its weights written in place, by the lanes that own it; those (a norm of a few elements, with
//! many lanes) are copied, in turns. A tied mirror isn't kept: its owner sends it again.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_compute::{Cpu, Frozen, StateMemory};
use rekindle_model::FrozenPart;
use rekindle_types::spec::RecoverySource;
use rekindle_types::{LayerId, StateKind, shard_range};
use rekindle_vault::{Arena, Entry, Identity, Snapshot, Unusable, VaultError};

use super::context::Context;
use super::{Engine, TrainerError};

/// How long a trainer may outlive its killed worker.
const WRITER_ENDS: Duration = Duration::from_secs(5);
/// Between two looks whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Bytes of a page; every buffer begins at one.
const PAGE: u64 = 4096;

/// Memory of the arena for the engine's state.
#[derive(Debug)]
struct Memory(Arc<Arena>);

// SAFETY: an arena gives zeroed memory from a page's start on, each piece once, inside a mapping that lives as long as the arena, which this
// value keeps alive. No other process writes to the file: it is made anew for this trainer.
unsafe impl StateMemory for Memory {
    fn take(&self, bytes: usize) -> Option<NonNull<u8>> {
        self.0.take(bytes)
    }
}

/// Keeps the state of the last step for a successor.
pub struct Local {
    arena: Arc<Arena>,
    /// Steps held, oldest first: two at most.
    held: VecDeque<(u64, Vec<FrozenPart<Cpu<f32>>>)>,
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

/// What a trainer of this rank left.
pub struct Left {
    path: PathBuf,
    snapshot: Snapshot,
}

/// Looks for what a trainer of this rank left in the worker's folder: the file of the newest epoch that offers anything.
#[must_use]
pub fn find(folder: &Path, context: &Context) -> Option<Left> {
    let identity = identity(context);
    let mut files = files(folder, context);
    files.sort_by_key(|(epoch, _)| std::cmp::Reverse(*epoch));
    let mut found = files
        .into_iter()
        .filter(|(epoch, _)| *epoch < context.plan.epoch.0)
        .filter_map(|(_, path)| open(path, &identity));
    found.find(|left| left.snapshot.steps().next().is_some())
}

/// Opens a file whose writer may be about to die: a trainer ends when its worker does, but not before.
fn open(path: PathBuf, identity: &Identity) -> Option<Left> {
    let by = Instant::now() + WRITER_ENDS;
    loop {
        match Snapshot::open(&path, identity) {
            Ok(snapshot) => return Some(Left { path, snapshot }),
            Err(Unusable::Written) if Instant::now() < by => std::thread::sleep(LOOK_AGAIN),
            Err(why) => {
                tracing::info!(path = %path.display(), %why, "memory of a trainer of this rank isn't used");
                return None;
            }
        }
    }
}

impl Left {
    /// The steps there are, newest first.
    #[must_use]
    pub fn steps(&self) -> Vec<u64> {
        self.snapshot.steps().collect()
    }

    /// Fills the engine with the state of `step`. The tied mirror is left as it is.
    ///
    /// # Errors
    /// [`TrainerError::Lost`] when the state isn't there after all. It isn't offered again then.
    pub fn load(&self, engine: &mut Engine, step: u64) -> Result<(), TrainerError> {
        self.fill(engine, step).inspect_err(|_| {
            if let Err(error) = std::fs::remove_file(&self.path) {
                tracing::warn!(%error, path = %self.path.display(), "unusable memory can't be freed");
            }
        })
    }

    fn fill(&self, engine: &mut Engine, step: u64) -> Result<(), TrainerError> {
        let lost = |why: String| TrainerError::Lost { step, why };
        let entries = self.snapshot.entries(step);
        let entries = entries.ok_or_else(|| lost("it isn't there any more".to_owned()))?;
        let mut missing: Vec<(LayerId, StateKind)> = engine
            .layers()
            .into_iter()
            .flat_map(|layer| StateKind::ALL.map(|kind| (layer, kind)))
            .collect();
        for entry in entries {
            let at = |element: u64| usize::try_from(element).unwrap_or(usize::MAX);
            let range = at(entry.elements.start)..at(entry.elements.end);
            engine.set_state_bytes(entry.layer, entry.kind, range, self.snapshot.bytes(entry))?;
            missing.retain(|held| *held != (entry.layer, entry.kind));
        }
        match missing.first() {
            None => Ok(()),
            Some((layer, kind)) => Err(lost(format!("{kind} of {layer} aren't in it"))),
        }
    }
}

impl Local {
    /// Shared memory for this trainer's state; none where the job doesn't want it or it can't be had, which is logged.
    #[must_use]
    pub fn new(folder: Option<&Path>, context: &Context) -> Option<Self> {
        let folder = folder?;
        if !context.spec.recovery.sources.contains(&RecoverySource::Local) {
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
        let path = file(folder, context, context.plan.epoch.0);
        let arena = Arc::new(Arena::create(&path, room(context), &identity(context))?);
        let mut copies = Vec::new();
        for layer in context.layers() {
            let bytes = 4 * context.numel(layer);
            if owned(context, layer) > 0 {
                continue;
            }
            if let (Some(a), Some(b)) = (arena.take(bytes), arena.take(bytes)) {
                let places = [a, b];
                copies.push(Copied { layer, bytes, places });
            }
        }
        Ok(Self {
            arena,
            held: VecDeque::new(),
            copies,
        })
    }

    /// Where the engine's state is to lie.
    #[must_use]
    pub fn memory(&self) -> Arc<dyn StateMemory> {
        Arc::new(Memory(Arc::clone(&self.arena)))
    }

    /// Before the update of `step`: only the state before it is kept, the memory of older ones is free.
    pub fn make_room(&mut self, step: u64) {
        self.arena.retire_before(step.saturating_sub(1));
        self.held.retain(|(held, _)| held + 1 >= step);
    }

    /// After the update of `step`, all weights taken: a successor may go on from here.
    ///
    /// # Errors
    /// [`TrainerError`] when the state can't be held.
    pub fn keep(&mut self, step: u64, engine: &Engine) -> Result<(), TrainerError> {
        let parts = engine.freeze_whole()?;
        let mut entries = Vec::with_capacity(parts.len() + self.copies.len());
        for part in &parts {
            let bytes = part.frozen.bytes()?;
            entries.push(self.entry(part.layer, part.kind, part.range.clone(), bytes)?);
        }
        for copied in &self.copies {
            let source = engine.weight_bytes(copied.layer, 0..copied.bytes / 4)?;
            // SAFETY: the place has this many bytes and belongs to this value; the step that it held before was retired two updates ago.
            let place = unsafe {
                std::slice::from_raw_parts_mut(copied.places[(step % 2) as usize].as_ptr(), copied.bytes)
            };
            place.copy_from_slice(&source);
            entries.push(self.entry(copied.layer, StateKind::Weights, 0..copied.bytes / 4, place)?);
            for kind in [StateKind::ExpAvg, StateKind::ExpAvgSq] {
                entries.push(Entry {
                    kind,
                    elements: 0..0,
                    ..self.entry(copied.layer, kind, 0..0, &place[..0])?
                });
            }
        }
        self.arena
            .publish(step, &entries)
            .map_err(|e| TrainerError::Protocol { what: e.to_string() })?;
        self.held.push_back((step, parts));
        Ok(())
    }

    fn entry(
        &self,
        layer: LayerId,
        kind: StateKind,
        elements: std::ops::Range<usize>,
        bytes: &[u8],
    ) -> Result<Entry, TrainerError> {
        let outside = || TrainerError::Protocol {
            what: format!("{kind} of {layer} don't lie in shared memory (a defect of Rekindle)"),
        };
        Ok(Entry {
            layer,
            kind,
            elements: elements.start as u64..elements.end as u64,
            bytes: self.arena.place_of(bytes).ok_or_else(outside)?,
        })
    }

    /// Removes what trainers of older epochs of this rank left: this one has a state of its own.
    pub fn forget_older(&self, context: &Context) {
        let Some(folder) = self.arena.path().parent() else {
            return;
        };
        for (epoch, path) in files(folder, context) {
            if epoch < context.plan.epoch.0
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(%error, path = %path.display(), "an old trainer's memory can't be freed");
            }
        }
    }
}

fn identity(context: &Context) -> Identity {
    Identity::of(&context.plan, context.id(), &context.spec)
}

/// Names of a job's files begin with this.
pub fn prefix(job: &str) -> String {
    format!("{job}+")
}

/// The job of a file of this name.
pub fn job_of(name: &str) -> Option<&str> {
    name.split_once('+').map(|(job, _)| job)
}

fn file(folder: &Path, context: &Context, epoch: u64) -> PathBuf {
    let prefix = prefix(context.plan.job.as_str());
    folder.join(format!("{prefix}r{}+e{epoch}", context.id().0))
}

/// Files of this job and rank with their epochs.
fn files(folder: &Path, context: &Context) -> Vec<(u64, PathBuf)> {
    let start = format!("{}r{}+e", prefix(context.plan.job.as_str()), context.id().0);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name.strip_prefix(&start)?.parse().ok()?, entry.path()))
        })
        .collect()
}

/// Elements of a layer that this rank updates.
fn owned(context: &Context, layer: LayerId) -> usize {
    shard_range(context.numel(layer), context.plan.lanes, context.rank.lane).len()
}

/// Bytes that the state, as many spare buffers and the job's pool take, each buffer in whole pages.
fn room(context: &Context) -> u64 {
    let pages = |elements: usize| (4 * elements as u64).next_multiple_of(PAGE);
    let mut state = 0;
    for layer in context.layers() {
        let (numel, owned) = (context.numel(layer), owned(context, layer));
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
