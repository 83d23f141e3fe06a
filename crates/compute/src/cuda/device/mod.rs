//! The CUDA device: one stream of work, cuBLASLt for products, kernels for the rest.
//!
//! Weights and moments are kept in single precision. In [`Precision::Bf16`] activations are rounded, and weights have
//! a rounded copy beside them, which AdamW refreshes as it goes; sums, norms and the gradients of weights stay in
//! single precision.
//!
//! Invariants
//! - CP-8 Work of a device is in one stream, in the order of the calls; work space is shared by operations because of
//!   that. The only other stream of a device copies frozen state to the host; communicators have their own, on
//!   contexts of their own.
//!
//! Deliberately absent: several devices in one process; communication.

mod adam;
mod attention;
mod buffer;
mod code;
mod freeze;
mod indices;
mod ops;
mod pool;
mod rows;
mod sums;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use buffer::CudaBuffer;
pub use freeze::CudaFrozen;
pub use indices::CudaIndices;
pub use sums::CudaSums;

use super::blas::Blas;
use super::driver::{Context, Event, Memory, Pinned, Stream};
use super::{Precision, survey};
use crate::{ComputeError, HandedOut, Result};
use code::Code;
use pool::Pool;

/// Bytes in which the work space grows.
pub const SPACE_STEP: usize = 1 << 20;

/// Bytes in which the room for numbers to the host grows.
const ANSWERS_STEP: usize = 64 << 10;

/// A CUDA device, computing in a precision.
pub struct Cuda {
    precision: Precision,
    stream: Stream,
    pool: Arc<Pool>,
    blas: Blas,
    code: Code,
    space: Mutex<Option<Memory>>,
    answers: Mutex<Option<Pinned>>,
}

/// A moment in the device's work, for measurements.
pub struct Moment(Event);

impl Cuda {
    /// The device of an ordinal. Kernels are compiled where the cache has none.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when there is no such device, it is too old, or a library is missing.
    pub fn open(ordinal: i32, precision: Precision) -> Result<Self> {
        let context = Context::open(ordinal)?;
        let (major, minor) = context.capability();
        if (major, minor) < survey::OLDEST {
            let name = context.name();
            let what = format!(
                "{name} has compute capability {major}.{minor}; the kernels need 8.0 or newer (A100 and later)"
            );
            return Err(ComputeError::Device { what });
        }
        Ok(Self {
            precision,
            stream: Stream::new(&context)?,
            pool: Arc::new(Pool::new(&context)?),
            blas: Blas::new(&context)?,
            code: Code::load(&context, &format!("sm_{major}{minor}"))?,
            space: Mutex::default(),
            answers: Mutex::default(),
        })
    }

    /// What it computes in.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.stream.context().name()
    }

    /// Streaming multiprocessors.
    #[must_use]
    pub fn multiprocessors(&self) -> i32 {
        self.stream.context().multiprocessors()
    }

    /// Bytes of the device's memory: free, and all.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.stream.context().memory()
    }

    /// Takes so much of the device's memory in one piece, out of which buffers are given from now on, so that they
    /// can't be refused later. `space` bytes of it are for the work space at once, which then has no reason to grow
    /// and to leave a gap.
    ///
    /// # Errors
    /// [`ComputeError::OutOfMemory`] when the device doesn't have it.
    pub fn reserve(&self, bytes: usize, space: usize) -> Result<()> {
        self.stream.context().reserve(bytes)?;
        match space {
            0 => Ok(()),
            _ => self.space(space).map(drop),
        }
    }

    /// Bytes of memory that this device has handed out, to itself too.
    #[must_use]
    pub fn handed_out(&self) -> HandedOut {
        self.stream.context().tally().handed_out()
    }

    /// Bytes that were taken beside what was reserved, because that had no room left; 0 where nothing was reserved.
    #[must_use]
    pub fn beside_reserved(&self) -> u64 {
        self.stream.context().beside()
    }

    /// Waits for all work given so far.
    ///
    /// # Errors
    /// What went wrong in it.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize()
    }

    /// The moment at which the work given so far is done.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn moment(&self) -> Result<Moment> {
        let event = Event::new(self.stream.context(), true)?;
        self.stream.record(&event)?;
        Ok(Moment(event))
    }

    /// Seconds of the device's time between two moments. Waits for the later one.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn seconds(&self, from: &Moment, to: &Moment) -> Result<f64> {
        to.0.synchronize()?;
        Ok(f64::from(to.0.since(&from.0)?) / 1e3)
    }

    /// Begins to note when each piece of work begins and ends on the device, or stops.
    pub fn note_spans(&self, on: bool) {
        self.stream.note_spans(on);
    }

    /// How often each kernel ran, and products, and the seconds they took, since spans are noted. Waits for them.
    ///
    /// # Errors
    /// What went wrong in them.
    pub fn take_spans(&self) -> Result<BTreeMap<&'static str, (usize, f64)>> {
        self.stream.take_spans()
    }

    /// Room for `numbers` in memory of the host that a kernel writes to by itself. A copy would wait in the one
    /// engine that also makes the copies of frozen state, behind all that are due.
    fn answers(&self, numbers: usize) -> Result<Answers<'_>> {
        let bytes = numbers * size_of::<f64>();
        let mut held = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|pinned| pinned.len() < bytes) {
            *held = None;
            *held = Some(Pinned::new(
                self.stream.context(),
                bytes.next_multiple_of(ANSWERS_STEP),
            )?);
        }
        let stream = &self.stream;
        Ok(Answers { stream, held })
    }

    /// Work space of at least `bytes`. What an operation leaves in it, the next one may overwrite.
    fn space(&self, bytes: usize) -> Result<Space<'_>> {
        let mut held = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|memory| memory.bytes() < bytes) {
            // The old one goes first: the driver frees it when the work that uses it is done.
            *held = None;
            *held = Some(Memory::new(
                self.stream.context(),
                bytes.next_multiple_of(SPACE_STEP),
            )?);
        }
        Ok(Space(held))
    }
}

/// Numbers that a kernel writes for the host.
struct Answers<'a> {
    stream: &'a Stream,
    held: MutexGuard<'a, Option<Pinned>>,
}

impl Answers<'_> {
    fn at(&self) -> u64 {
        self.held.as_ref().map_or(0, Pinned::at)
    }

    /// Waits for the kernel and gives what it wrote.
    fn read(self, numbers: &mut [f64]) -> Result<()> {
        self.stream.synchronize()?;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(numbers);
        if let Some(held) = self.held.as_ref() {
            bytes.copy_from_slice(&held.slice()[..bytes.len()]);
        }
        Ok(())
    }
}

struct Space<'a>(MutexGuard<'a, Option<Memory>>);

impl Space<'_> {
    fn at(&self) -> u64 {
        self.0.as_ref().map_or(0, Memory::at)
    }
}
