//! The CPU device: checks operands, then runs the kernels of the modules beside this one.

mod adamw;
mod attention;
mod buffer;
mod embed;
mod fixed;
mod held;
mod lanes;
mod loss;
mod matmul;
mod memory;
mod meter;
mod norm;
mod operands;
mod ops;
mod pool;
mod rope;
mod spares;
mod stream;
mod sums;
mod swiglu;
mod tile;

use std::marker::PhantomData;
use std::sync::Arc;

pub(crate) use adamw::Factors;
pub use buffer::Aligned;
pub(crate) use embed::groups;
pub use held::{CpuBuffer, CpuFrozen};
pub use memory::StateMemory;
pub use meter::{Spent, Work};
pub use sums::CpuSums;
#[doc(hidden)]
pub use tile::Tile;

/// See [`crate::sizes`].
pub(crate) const SIZES: Sizes = Sizes {
    alignment: 1,
    logits_at_once: 1 << 21,
    norm_rows: norm::ROWS,
    attention_tile: attention::TILE,
    vector: tile::WIDTH,
    workspace: 0,
    space_step: 0,
};
pub(crate) use tile::{multiply_f32, multiply_f64};

use crate::sizes::Sizes;
use crate::tally::{HandedOut, Tally};
use crate::{Float, Result};

/// This machine's processor, computing in `F`.
#[derive(Debug)]
pub struct Cpu<F> {
    pool: pool::Pool,
    spares: Arc<spares::Spares<F>>,
    scratch: attention::Scratch<F>,
    tally: Arc<Tally>,
    meter: meter::Meter,
    element: PhantomData<F>,
}

impl<F: Float> Cpu<F> {
    /// A device that computes on `threads` threads of its own (1: on the caller's).
    ///
    /// # Errors
    /// [`crate::ComputeError::Device`] when the system gives no threads.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with_memory(threads, None)
    }

    /// As [`Cpu::new`], with the memory that state ([`crate::Device::alloc_state`]) and its spares are to lie in.
    ///
    /// # Errors
    /// As [`Cpu::new`].
    pub fn with_memory(threads: usize, memory: Option<Arc<dyn StateMemory>>) -> Result<Self> {
        let tally = Arc::<Tally>::default();
        Ok(Self {
            pool: pool::Pool::new(threads)?,
            spares: Arc::new(spares::Spares::new(memory, Arc::clone(&tally))),
            scratch: attention::Scratch::new(&tally),
            tally,
            meter: meter::Meter::default(),
            element: PhantomData,
        })
    }

    /// How many threads compute.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes of buffers, sums and work space that this device has handed out.
    #[must_use]
    pub fn handed_out(&self) -> HandedOut {
        self.tally.handed_out()
    }

    /// What was done of one kind of work since the device was made.
    #[must_use]
    pub fn spent(&self, work: Work) -> Spent {
        self.meter.spent(work)
    }
}
