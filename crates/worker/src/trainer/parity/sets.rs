//! Memory for two of a rank's sets: the one that all ranks have, and the one in the making.
//!
//! ```text
//!   JOB+pR+eE   table | state of set a | seal, parities of set a | state of set b | seal, parities of set b
//! ```
//!
//! A set is listed in the table when it is sealed (VA-1), and retired before its memory is used again.

use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;

use rekindle_types::{LayerId, StateKind};
use rekindle_vault::parity::{SEAL, Seal};
use rekindle_vault::{Arena, Entry, VaultError};

use super::group::Members;
use crate::trainer::TrainerError;
use crate::trainer::context::Context;
use crate::trainer::keep::PAGE;
use crate::trainer::left::Whose;
use crate::trainer::shadow::pieces;

/// Memory for one set.
struct Place {
    state: NonNull<u8>,
    more: NonNull<u8>,
    /// What lies there, sealed.
    step: Option<u64>,
}

// SAFETY: the memory is the arena's, which nobody else was given; whoever holds the `Sets` mutably uses it.
unsafe impl Send for Place {}

/// Two sets.
pub struct Sets {
    arena: Arena,
    places: Vec<Place>,
    /// Bytes of the state, and of a seal and the parities.
    bytes: (usize, usize),
    /// What the state is made of, in order, with its bytes in it.
    pieces: Vec<Placed>,
    members: Members,
}

/// A piece of the state in a set.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The layer.
    pub layer: LayerId,
    /// What of it.
    pub kind: StateKind,
    /// Which elements of the layer's flat buffer.
    pub elements: Range<usize>,
    /// Which bytes of the set's state.
    pub bytes: Range<usize>,
}

/// Memory of a set in the making.
pub struct Room<'a> {
    /// For the state.
    pub state: &'a mut [u8],
    /// For the seal.
    pub seal: &'a mut [u8],
    /// For the parities.
    pub parities: &'a mut [u8],
}

impl Sets {
    /// Makes the file.
    ///
    /// # Errors
    /// [`VaultError`]: no room, no such folder.
    pub fn create(path: &Path, context: &Context, members: Members) -> Result<Self, VaultError> {
        let (state, parities) = (
            members.group.size(members.me),
            members.group.parity_bytes(members.me),
        );
        let more = SEAL as u64 + parities;
        let room = 2 * (state.next_multiple_of(PAGE) + more.next_multiple_of(PAGE));
        let identity = Whose::Parity(context.id()).identity(context);
        let arena = Arena::create(path, room, &identity)?;
        let whole = |bytes| usize::try_from(bytes).map_err(|_| VaultError::TooLarge { what: "the state" });
        let bytes = (whole(state)?, whole(more)?);
        let take = |bytes| {
            arena
                .take(bytes)
                .ok_or(VaultError::TooLarge { what: "the state" })
        };
        let place = |_| {
            let (state, more) = (take(bytes.0)?, take(bytes.1)?);
            Ok(Place {
                state,
                more,
                step: None,
            })
        };
        let places = (0..2).map(place).collect::<Result<_, VaultError>>()?;
        Ok(Self {
            places,
            arena,
            bytes,
            pieces: placed(context),
            members,
        })
    }

    /// Whose they are.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// What the state is made of, in order, with its bytes in it.
    #[must_use]
    pub fn pieces(&self) -> &[Placed] {
        &self.pieces
    }

    /// Where the next set is made: where none lies. None: both are in use.
    pub fn room(&mut self) -> Option<Room<'_>> {
        let (state, more) = self.bytes;
        let place = self.places.iter_mut().find(|place| place.step.is_none())?;
        // SAFETY: the memory has so many bytes, is this value's alone, and isn't listed in the table: its set was
        // retired.
        let (state, more) = unsafe {
            (
                std::slice::from_raw_parts_mut(place.state.as_ptr(), state),
                std::slice::from_raw_parts_mut(place.more.as_ptr(), more),
            )
        };
        let (seal, parities) = more.split_at_mut(SEAL);
        Some(Room {
            state,
            seal,
            parities,
        })
    }

    /// The set that was made in the [`Sets::room`] is whole: lists it.
    ///
    /// # Errors
    /// [`TrainerError`] when its seal or its table has no room.
    pub fn publish(&mut self, seal: &Seal) -> Result<(), TrainerError> {
        let room = self.room().ok_or_else(|| TrainerError::defect("a third set"))?;
        seal.write(room.seal).map_err(TrainerError::defect)?;
        let free = self.places.iter().position(|place| place.step.is_none());
        let number = free.ok_or_else(|| TrainerError::defect("a third set"))?;
        let entries = self.pieces.iter().map(|piece| self.entry(number, piece));
        let entries = entries.collect::<Result<Vec<_>, TrainerError>>()?;
        let more = self.lies(self.places[number].more, 0..self.bytes.1)?;
        let listed = self.arena.publish_with(seal.step, &entries, more);
        listed.map_err(TrainerError::defect)?;
        self.places[number].step = Some(seal.step);
        Ok(())
    }

    fn entry(&self, number: usize, piece: &Placed) -> Result<Entry, TrainerError> {
        Ok(Entry {
            layer: piece.layer,
            kind: piece.kind,
            elements: piece.elements.start as u64..piece.elements.end as u64,
            bytes: self.lies(self.places[number].state, piece.bytes.clone())?,
        })
    }

    /// Where in the file bytes of a place lie.
    fn lies(&self, place: NonNull<u8>, bytes: Range<usize>) -> Result<Range<u64>, TrainerError> {
        // SAFETY: the place has so many bytes; only where they are is asked for.
        let bytes = unsafe { std::slice::from_raw_parts(place.as_ptr().add(bytes.start), bytes.len()) };
        let outside = || TrainerError::defect("a set lies outside its file");
        self.arena.place_of(bytes).ok_or_else(outside)
    }

    /// Sets of steps before `step` aren't needed any more.
    pub fn retire_before(&mut self, step: u64) {
        self.arena.retire_before(step);
        for place in &mut self.places {
            place.step.take_if(|held| *held < step);
        }
    }
}

/// What a rank owns, with the bytes that it takes in its state.
fn placed(context: &Context) -> Vec<Placed> {
    let mut end = 0;
    let place = |(layer, kind)| {
        let (elements, start) = (context.owned(layer), end);
        end += 4 * elements.len();
        Placed {
            layer,
            kind,
            elements,
            bytes: start..end,
        }
    };
    pieces(context, context.id()).into_iter().map(place).collect()
}
