//! Points in a stream.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::{Context, Named};
use crate::Result;

/// A point in a stream.
pub struct Event {
    context: Arc<Context>,
    pub(super) raw: sys::CUevent,
}

// SAFETY: the driver takes an event from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event that has come, as long as nobody records it.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn new(context: &Arc<Context>, timing: bool) -> Result<Self> {
        use sys::CUevent_flags::{CU_EVENT_DEFAULT, CU_EVENT_DISABLE_TIMING};
        context.bind()?;
        let flags = if timing {
            CU_EVENT_DEFAULT
        } else {
            CU_EVENT_DISABLE_TIMING
        };
        let raw = result::event::create(flags).named("cuEventCreate")?;
        Ok(Self {
            context: Arc::clone(context),
            raw,
        })
    }

    /// Waits until it has come.
    ///
    /// # Errors
    /// What went wrong before it.
    pub fn synchronize(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the event lives.
        unsafe { result::event::synchronize(self.raw) }.named("cuEventSynchronize")
    }

    /// Milliseconds from an earlier event to this one; both made with timing, and come.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn since(&self, earlier: &Self) -> Result<f32> {
        self.context.bind()?;
        // SAFETY: both live.
        unsafe { result::event::elapsed(earlier.raw, self.raw) }.named("cuEventElapsedTime")
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made in `new`, destroyed once.
            let _ = unsafe { result::event::destroy(self.raw) };
        }
    }
}
