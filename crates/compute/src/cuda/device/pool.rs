//! Pinned memory that frozen state is copied into, and the stream that copies.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::super::driver::{Context, Pinned, Stream};
use crate::Result;

/// How often a wait looks again: a copy may be done without a place that comes back.
const LOOK: Duration = Duration::from_millis(5);

/// Places for copies. They are allocated by [`Pool::reserve`] alone.
pub struct Pool {
    /// Copies to the host.
    pub stream: Stream,
    places: Mutex<Vec<Pinned>>,
    freed: Condvar,
}

impl Pool {
    /// Without places.
    ///
    /// # Errors
    /// [`crate::ComputeError::Device`].
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        Ok(Self {
            stream: Stream::new(context)?,
            places: Mutex::default(),
            freed: Condvar::new(),
        })
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Vec<Pinned>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds places of so many bytes.
    ///
    /// # Errors
    /// [`crate::ComputeError::Device`] when the host has no more such memory.
    pub fn reserve(&self, sizes: impl Iterator<Item = usize>) -> Result<()> {
        for bytes in sizes {
            let place = Pinned::new(self.stream.context(), bytes)?;
            self.places().push(place);
        }
        Ok(())
    }

    /// The smallest free place of at least `bytes`.
    pub fn take(&self, bytes: usize) -> Option<Pinned> {
        let mut places = self.places();
        let fits = places
            .iter()
            .enumerate()
            .filter(|(_, place)| place.len() >= bytes);
        let (at, _) = fits.min_by_key(|(_, place)| place.len())?;
        Some(places.swap_remove(at))
    }

    /// Takes a place back. No copy is under way in it.
    pub fn give(&self, place: Pinned) {
        self.places().push(place);
        self.freed.notify_all();
    }

    /// Waits a little for a place to come back.
    pub fn wait(&self) {
        let places = self.places();
        drop(self.freed.wait_timeout(places, LOOK));
    }
}
