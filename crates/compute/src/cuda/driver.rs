//! The driver: contexts, memory, streams, events, code and launches, each freed by the value that owns it.
//!
//! In: sizes, addresses, bytes. Out: the same, or an error that names the driver's call. Every call makes its context current on the calling
//! thread first, so that values may be used and dropped on any thread.
//!
//! Invariants
//! - CP-6 Memory that a kernel or a copy in flight uses stays allocated: the driver finishes a device's work before it frees.
//!
//! Deliberately absent: what kernels compute. Calls of the driver that do work are in this file alone.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::library::{Kind, find};
use crate::{ComputeError, Result};

fn refused(what: String) -> ComputeError {
    ComputeError::Device { what }
}

/// An error that names the call.
fn failed(call: &str, error: DriverError) -> ComputeError {
    let code = error.0 as u32;
    let name = error.error_name().map(|n| n.to_string_lossy().into_owned());
    let advice = match code {
        2 => "; take a smaller micro-batch, `recompute = \"block\"`, or more stages",
        46 | 79 | 214 | 700..=720 | 999 => {
            "; the device or its context is lost to this process, which has to end"
        }
        _ => "",
    };
    let name = name.unwrap_or_else(|_| "unknown".to_owned());
    refused(format!("CUDA: {call} gave {code} ({name}){advice}"))
}

trait Named<T> {
    fn named(self, call: &str) -> Result<T>;
}

impl<T> Named<T> for std::result::Result<T, DriverError> {
    fn named(self, call: &str) -> Result<T> {
        self.map_err(|error| failed(call, error))
    }
}

/// A device's primary context, retained.
pub struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
    name: String,
    capability: (i32, i32),
    multiprocessors: i32,
}

// SAFETY: the driver may be called with a context from any thread that made it current.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// The device of an ordinal.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when there is no driver or no such device.
    pub fn open(ordinal: i32) -> Result<Arc<Self>> {
        use sys::CUdevice_attribute as Attribute;
        // cudarc panics where the library is absent.
        // SAFETY: looks for the library that was just found, or for the same names once more.
        if find(Kind::Driver).is_none() || !unsafe { sys::is_culib_present() } {
            let remedy = Kind::Driver.remedy();
            return Err(refused(format!("there is no CUDA driver: {remedy}")));
        }
        result::init().named("cuInit")?;
        let device = result::device::get(ordinal).named(&format!("cuDeviceGet({ordinal})"))?;
        // SAFETY: the device was just given.
        let attribute = |which| unsafe { result::device::get_attribute(device, which) };
        let attribute = |which| attribute(which).named("cuDeviceGetAttribute");
        let context = Self {
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            name: result::device::get_name(device).named("cuDeviceGetName")?,
            // SAFETY: the device was just given; released when this is dropped.
            raw: unsafe { result::primary_ctx::retain(device) }.named("cuDevicePrimaryCtxRetain")?,
            device,
        };
        Ok(Arc::new(context))
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its compute capability.
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// Streaming multiprocessors.
    pub fn multiprocessors(&self) -> i32 {
        self.multiprocessors
    }

    fn bind(&self) -> Result<()> {
        // SAFETY: retained until this is dropped.
        unsafe { result::ctx::set_current(self.raw) }.named("cuCtxSetCurrent")
    }

    /// Bytes of memory: free, and all.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.bind()?;
        result::mem_get_info().named("cuMemGetInfo")
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `open`; whoever uses it holds it.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Memory of the device.
pub struct Memory {
    context: Arc<Context>,
    at: u64,
    bytes: usize,
}

impl Memory {
    /// `bytes` that hold anything.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when there is no more.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        context.bind()?;
        // SAFETY: nothing is read from it before it is written; freed when this is dropped. No allocation is empty.
        let at = unsafe { result::malloc_sync(bytes.max(16)) }.map_err(|error| {
            let (free, all) = result::mem_get_info().unwrap_or_default();
            let mib = |bytes: usize| bytes >> 20;
            let what = format!(
                "cuMemAlloc of {} MiB (of {} MiB, {} are free)",
                mib(bytes),
                mib(all),
                mib(free)
            );
            failed(&what, error)
        })?;
        Ok(Self {
            context: Arc::clone(context),
            at,
            bytes,
        })
    }

    /// `bytes` of zeroes, once the stream gets there.
    ///
    /// # Errors
    /// As [`Memory::new`].
    pub fn zeroed(stream: &Stream, bytes: usize) -> Result<Self> {
        let memory = Self::new(&stream.context, bytes)?;
        stream.zero(memory.at, bytes)?;
        Ok(memory)
    }

    /// Its address.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: given by the driver in `new`, freed once. The driver waits for work that may use it.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// Memory of the host that copies go to and from without a stop.
pub struct Pinned {
    context: Arc<Context>,
    at: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its memory, as a box does.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `bytes` of zeroes, every page touched.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when there is no more.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        context.bind()?;
        let len = bytes.max(1);
        // SAFETY: filled below before anything reads it; freed when this is dropped.
        let at = unsafe { result::malloc_host(len, 0) }.named("cuMemHostAlloc")?;
        // SAFETY: the driver gave `len` bytes.
        unsafe { std::ptr::write_bytes(at.cast::<u8>(), 0, len) };
        Ok(Self {
            context: Arc::clone(context),
            at: at.cast(),
            bytes,
        })
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The bytes. A copy into them must have ended.
    pub fn slice(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes that live as long as this; copies into it want `&mut` and are waited for by their callers.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }

    /// The bytes, to be written. A copy from them must have ended.
    pub fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: given by the driver in `new`, freed once. The driver waits for copies.
            let _ = unsafe { result::free_host(self.at.cast::<c_void>()) };
        }
    }
}

/// A queue of work.
pub struct Stream {
    context: Arc<Context>,
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

    /// Copies to the host, later; `to` isn't touched before an event after this has come.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn copy_out_later(&self, to: &mut Pinned, from: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller's range and its promise; pinned memory is freed by the driver after the copy.
        unsafe { result::memcpy_dtoh_async(&mut to.slice_mut()[..bytes], from, self.raw) }
            .named("cuMemcpyDtoHAsync")
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

    /// Launches a kernel over `grid` blocks of `threads`, with `memory` bytes of launch memory. The arguments are those the kernel declares.
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
            // SAFETY: callers give what the kernel declares, over memory they own; the driver copies the arguments before it returns.
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

/// A point in a stream.
pub struct Event {
    context: Arc<Context>,
    raw: sys::CUevent,
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

/// Machine code on the device. It stays loaded as long as its context.
pub struct Image {
    context: Arc<Context>,
    raw: sys::CUmodule,
}

// SAFETY: the driver takes a module from any thread.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

/// A kernel of an [`Image`].
#[derive(Clone, Copy)]
pub struct Function {
    raw: sys::CUfunction,
    name: &'static str,
}

// SAFETY: the driver takes a function from any thread; images are never unloaded.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Image {
    /// Loads a CUBIN.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when the driver doesn't take it.
    pub fn load(context: &Arc<Context>, cubin: &[u8]) -> Result<Self> {
        context.bind()?;
        // SAFETY: a CUBIN carries its own length; the driver copies it.
        let raw = unsafe { result::module::load_data(cubin.as_ptr().cast()) }.named("cuModuleLoadData")?;
        Ok(Self {
            context: Arc::clone(context),
            raw,
        })
    }

    /// A kernel by name, which may use `memory` bytes of launch memory.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when there is none.
    pub fn function(&self, name: &'static str, memory: usize) -> Result<Function> {
        self.context.bind()?;
        let text =
            CString::new(name).map_err(|e| refused(format!("a kernel's name with a zero byte: {e}")))?;
        // SAFETY: the image is loaded.
        let raw = unsafe { result::module::get_function(self.raw, text) }
            .named(&format!("cuModuleGetFunction({name})"))?;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let memory = i32::try_from(memory).unwrap_or(i32::MAX);
        // SAFETY: the function was just given.
        unsafe { result::function::set_function_attribute(raw, attribute, memory) }
            .named(&format!("{memory} bytes of launch memory for {name}"))?;
        Ok(Function { raw, name })
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    /// An address.
    At(u64),
    /// A count.
    Len(u64),
    /// A small number.
    Int(i32),
    /// A float.
    Float(f32),
    /// A double.
    Double(f64),
    /// The `Shape` of attention.
    Shape(ShapeArg),
    /// The `Factors` of AdamW.
    Factors([f32; 10]),
}

/// `Shape` in attention.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ShapeArg {
    /// Tokens of a sequence.
    pub seq_len: i32,
    /// Query heads.
    pub heads: i32,
    /// Key and value heads.
    pub kv_heads: i32,
    /// Width of a head.
    pub head_dim: i32,
    /// Factor on the scores.
    pub scale: f32,
}

impl Arg {
    fn pointer(&self) -> *mut c_void {
        let to: *const c_void = match self {
            Self::At(v) | Self::Len(v) => std::ptr::from_ref(v).cast(),
            Self::Int(v) => std::ptr::from_ref(v).cast(),
            Self::Float(v) => std::ptr::from_ref(v).cast(),
            Self::Double(v) => std::ptr::from_ref(v).cast(),
            Self::Shape(v) => std::ptr::from_ref(v).cast(),
            Self::Factors(v) => std::ptr::from_ref(v).cast(),
        };
        to.cast_mut()
    }
}
