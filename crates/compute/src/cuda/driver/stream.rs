//! Queues of work: copies, launches, waits, and when they were done.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{result, sys};

use super::{Arg, Context, Event, Function, Named, Pinned, refused};
use crate::Result;

/// Bytes that a copy to the host which nobody waits for is cut into: 80 µs at 50 GB/s.
const PIECE: usize = 4 << 20;

/// A queue of work.
pub struct Stream {
    pub(super) context: Arc<Context>,
    raw: sys::CUstream,
    /// What was done between which events, while somebody asks for it.
    spans: Mutex<Option<Vec<Span>>>,
}

struct Span {
    name: &'static str,
    from: Event,
    to: Event,
}

// SAFETY: the driver takes work for a stream from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream that waits for no other.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        context.bind()?;
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking).named("cuStreamCreate")?;
        Ok(Self {
            context: Arc::clone(context),
            raw,
            spans: Mutex::default(),
        })
    }

    fn spans(&self) -> MutexGuard<'_, Option<Vec<Span>>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to note when each piece of work begins and ends on the device, or stops.
    pub fn note_spans(&self, on: bool) {
        *self.spans() = on.then(Vec::new);
    }

    /// How often each kind of work was done and the seconds it took, since spans are noted. Waits for it.
    ///
    /// # Errors
    /// What went wrong in it.
    pub fn take_spans(&self) -> Result<BTreeMap<&'static str, (usize, f64)>> {
        let spans = self.spans().as_mut().map(std::mem::take).unwrap_or_default();
        let mut all = BTreeMap::new();
        for Span { name, from, to } in &spans {
            to.synchronize()?;
            let (count, seconds) = all.entry(*name).or_insert((0, 0.0));
            *count += 1;
            *seconds += f64::from(to.since(from)?) / 1e3;
        }
        Ok(all)
    }

    /// Gives work to the stream under a name, see [`Stream::note_spans`].
    ///
    /// # Errors
    /// Those of `work`.
    pub fn named(&self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.spans().is_none() {
            return work();
        }
        let (from, to) = (Event::new(&self.context, true)?, Event::new(&self.context, true)?);
        self.record(&from)?;
        work()?;
        self.record(&to)?;
        if let Some(spans) = &mut *self.spans() {
            spans.push(Span { name, from, to });
        }
        Ok(())
    }

    /// Its context.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// For libraries that put work into it.
    pub fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Makes the context current, for libraries that want it so.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn bind(&self) -> Result<()> {
        self.context.bind()
    }

    /// Waits for all work given so far.
    ///
    /// # Errors
    /// What went wrong in it.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives.
        unsafe { result::stream::synchronize(self.raw) }.named("cuStreamSynchronize")
    }

    /// Whether all work given so far is done; never waits for it.
    ///
    /// # Errors
    /// What went wrong in it.
    pub fn is_idle(&self) -> Result<bool> {
        self.bind()?;
        // SAFETY: the stream lives.
        match unsafe { sys::cuStreamQuery(self.raw) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => code.result().named("cuStreamQuery").map(|()| false),
        }
    }

    /// Sets `bytes` to 0. The caller owns them.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller's range.
        unsafe { result::memset_d8_async(at, 0, bytes, self.raw) }.named("cuMemsetD8Async")
    }

    /// Copies to the device, and waits for it.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn copy_in(&self, to: u64, from: &[u8]) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller's range; `from` lives until the copy is waited for below.
        unsafe { result::memcpy_htod_async(to, from, self.raw) }.named("cuMemcpyHtoDAsync")?;
        self.synchronize()
    }

    /// Copies to the device, later; `from` isn't written before an event after this has come.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn copy_in_later(&self, to: u64, from: &Pinned, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller's range and its promise; pinned memory is freed by the driver after the copy.
        unsafe { result::memcpy_htod_async(to, &from.slice()[..bytes], self.raw) }.named("cuMemcpyHtoDAsync")
    }

    /// Copies to the host, and waits for it.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn copy_out(&self, to: &mut [u8], from: u64) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller's range; `to` lives until the copy is waited for below.
        unsafe { result::memcpy_dtoh_async(to, from, self.raw) }.named("cuMemcpyDtoHAsync")?;
        self.synchronize()
    }

    /// Copies to the host, later and in pieces: one engine of the device makes all copies to the host, one after
    /// another, and what another stream wants copied meanwhile should wait for a piece only. `to` isn't touched
    /// before an event after this has come.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn copy_out_later(&self, to: &mut Pinned, from: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        let mut at = from;
        for piece in to.slice_mut()[..bytes].chunks_mut(PIECE) {
            // SAFETY: the caller's range and its promise; pinned memory is freed by the driver after the copy.
            unsafe { result::memcpy_dtoh_async(piece, at, self.raw) }.named("cuMemcpyDtoHAsync")?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// What is given to this stream from now on waits for `event`.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn wait_for(&self, event: &Event) -> Result<()> {
        self.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both live.
        unsafe { result::stream::wait_event(self.raw, event.raw, flags) }.named("cuStreamWaitEvent")
    }

    /// An event that comes when all work given so far is done.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn event(&self) -> Result<Event> {
        let event = Event::new(&self.context, false)?;
        self.record(&event)?;
        Ok(event)
    }

    /// Sets an event anew to come when all work given so far is done.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn record(&self, event: &Event) -> Result<()> {
        self.bind()?;
        // SAFETY: both live.
        unsafe { result::event::record(event.raw, self.raw) }.named("cuEventRecord")
    }

    /// Launches a kernel over `grid` blocks of `threads`, with `memory` bytes of launch memory. The arguments are
    /// those the kernel declares.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn launch(
        &self,
        kernel: Function,
        grid: [usize; 3],
        threads: u32,
        memory: usize,
        args: &[Arg],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        self.bind()?;
        let size = |n: usize| {
            u32::try_from(n).map_err(|_| {
                refused(format!(
                    "a launch of {grid:?} blocks with {memory} bytes is too large"
                ))
            })
        };
        let (grid, memory) = ((size(grid[0])?, size(grid[1])?, size(grid[2])?), size(memory)?);
        let mut pointers: Vec<*mut c_void> = args.iter().map(Arg::pointer).collect();
        self.named(kernel.name, || {
            // SAFETY: callers give what the kernel declares, over memory they own; the driver copies the arguments
            // before it returns.
            unsafe {
                result::launch_kernel(kernel.raw, grid, (threads, 1, 1), memory, self.raw, &mut pointers)
            }
            .named("cuLaunchKernel")
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            // SAFETY: made in `new`, destroyed once; the driver finishes its work first.
            let _ = unsafe { result::stream::destroy(self.raw) };
        }
    }
}
