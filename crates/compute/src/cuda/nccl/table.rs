//! The communicators of a process by name, each with its stream and what the stream uses.
//!
//! Deliberately absent: calls of NCCL.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::library::Raw;
use super::{Comm, Piece};
use crate::cuda::driver::Stream;

/// Where NCCL writes a communicator, from a thread of its own, and perhaps only after the call that makes it was
/// given up. So it is never freed: 8 bytes for each communicator that a process makes.
#[derive(Clone, Copy)]
pub(super) struct Place(&'static AtomicPtr<std::ffi::c_void>);

impl Place {
    pub(super) fn new() -> Self {
        Self(Box::leak(Box::new(AtomicPtr::new(std::ptr::null_mut()))))
    }

    pub(super) fn write_to(self) -> *mut Raw {
        self.0.as_ptr()
    }

    /// The communicator, once NCCL has written it.
    pub(super) fn read(self) -> Option<Raw> {
        let raw = self.0.load(Ordering::Acquire);
        (!raw.is_null()).then_some(raw)
    }
}

/// A communicator.
pub(super) struct Entry {
    pub(super) place: Place,
    /// Made from this one, whose state says how that goes until there is a communicator.
    pub(super) parent: Option<Comm>,
    pub(super) stream: Stream,
    inside: Mutex<Inside>,
}

/// What only whoever makes a call on the communicator may touch.
#[derive(Default)]
pub(super) struct Inside {
    /// What the stream may use (CP-9).
    pub(super) using: Vec<Piece>,
    /// NCCL has freed it, or is about to.
    ended: bool,
}

impl Entry {
    pub(super) fn new(stream: Stream, parent: Option<Comm>) -> Self {
        Self {
            place: Place::new(),
            parent,
            stream,
            inside: Mutex::default(),
        }
    }

    /// Waits until no other thread makes a call on it; `None` once it has ended.
    pub(super) fn alone(&self) -> Option<MutexGuard<'_, Inside>> {
        let inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        (!inside.ended).then_some(inside)
    }

    /// As [`Entry::alone`], for the last call.
    pub(super) fn last(&self) -> Option<MutexGuard<'_, Inside>> {
        let mut inside = self.alone()?;
        inside.ended = true;
        Some(inside)
    }
}

#[derive(Default)]
pub(super) struct Table {
    entries: Mutex<BTreeMap<Comm, Arc<Entry>>>,
    named: AtomicU64,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Comm, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for a communicator that couldn't even be begun.
    pub(super) fn unused(&self) -> Comm {
        Comm(self.named.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn add(&self, entry: Arc<Entry>) -> Comm {
        let comm = self.unused();
        self.lock().insert(comm, entry);
        comm
    }

    pub(super) fn get(&self, comm: Comm) -> Option<Arc<Entry>> {
        self.lock().get(&comm).cloned()
    }

    /// From now on the name has ended.
    pub(super) fn remove(&self, comm: Comm) -> Option<Arc<Entry>> {
        self.lock().remove(&comm)
    }
}
