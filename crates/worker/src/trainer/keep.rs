//! Shared memory of the worker in which the last two steps of a state lie, without a copy: a rank's own, or one that
//! it guards.
//!
//! ```text
//!   update of step s writes beside the state of s-1; then publish(s): the table says where the state of s is
//!   make_room(s+1), before the update of s+1: s-1 is let go, its memory is what that update writes
//! ```
//!
//! Deliberately absent: whose state it is, and finding what a dead trainer left ([`super::left`]).

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use rekindle_compute::{AnyDevice, Frozen, StateMemory};
use rekindle_model::FrozenPart;
use rekindle_types::{LayerId, StateKind};
use rekindle_vault::{Arena, Entry, Identity, VaultError};

use super::TrainerError;

/// Bytes of a page; every buffer begins at one.
pub const PAGE: u64 = 4096;

/// Bytes that a buffer of so many elements takes.
pub fn pages(elements: usize) -> u64 {
    (4 * elements as u64).next_multiple_of(PAGE)
}

/// Memory of the arena for an engine's state.
#[derive(Debug)]
struct Memory(Arc<Arena>);

// SAFETY: an arena gives zeroed memory from a page's start on, each piece once, inside a mapping that lives as long
// as the arena, which this value keeps alive. No other process writes to the file: it is made anew for this trainer.
unsafe impl StateMemory for Memory {
    fn take(&self, bytes: usize) -> Option<NonNull<u8>> {
        self.0.take(bytes)
    }
}

/// The last two steps of a state.
pub struct Keep {
    arena: Arc<Arena>,
    /// Steps held, oldest first: two at most.
    held: VecDeque<(u64, Vec<FrozenPart<AnyDevice>>)>,
}

impl Keep {
    /// Makes the file.
    ///
    /// # Errors
    /// [`VaultError`]: no room, no such folder.
    pub fn create(path: &Path, bytes: u64, identity: &Identity) -> Result<Self, VaultError> {
        Ok(Self {
            arena: Arc::new(Arena::create(path, bytes, identity)?),
            held: VecDeque::new(),
        })
    }

    /// Where the state is to lie.
    #[must_use]
    pub fn memory(&self) -> Arc<dyn StateMemory> {
        Arc::new(Memory(Arc::clone(&self.arena)))
    }

    /// Memory beside the state, see [`Arena::take`].
    pub fn take(&self, bytes: usize) -> Option<NonNull<u8>> {
        self.arena.take(bytes)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.arena.path()
    }

    /// Before the update of `step`: only the state before it is kept, the memory of older ones is free.
    pub fn make_room(&mut self, step: u64) {
        self.arena.retire_before(step.saturating_sub(1));
        self.held.retain(|(held, _)| held + 1 >= step);
    }

    /// After the update of `step`: a successor may go on from these parts and the further `entries`.
    ///
    /// # Errors
    /// [`TrainerError`] when the state can't be held.
    pub fn publish(
        &mut self,
        step: u64,
        parts: Vec<FrozenPart<AnyDevice>>,
        mut entries: Vec<Entry>,
    ) -> Result<(), TrainerError> {
        for part in &parts {
            let bytes = part.frozen.bytes()?;
            entries.push(self.entry(part.layer, part.kind, part.range.clone(), bytes)?);
        }
        self.arena
            .publish(step, &entries)
            .map_err(|e| TrainerError::Protocol { what: e.to_string() })?;
        self.held.push_back((step, parts));
        Ok(())
    }

    /// Where these bytes of the arena are, for its table.
    ///
    /// # Errors
    /// [`TrainerError::Protocol`] for other memory.
    pub fn entry(
        &self,
        layer: LayerId,
        kind: StateKind,
        elements: Range<usize>,
        bytes: &[u8],
    ) -> Result<Entry, TrainerError> {
        let outside = || TrainerError::defect(format!("{kind} of {layer} don't lie in shared memory"));
        Ok(Entry {
            layer,
            kind,
            elements: elements.start as u64..elements.end as u64,
            bytes: self.arena.place_of(bytes).ok_or_else(outside)?,
        })
    }
}
