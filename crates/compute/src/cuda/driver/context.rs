//! A device as this process sees it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{result, sys};

use super::super::arena::Arena;
use super::super::library::{Kind, find};
use super::memory::allocate;
use super::{Named, refused};
use crate::Result;
use crate::tally::Tally;

/// Memory of a block that is left to what kernels declare themselves.
const OWN_MEMORY: usize = 4 << 10;

/// A device's primary context, retained.
pub struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
    name: String,
    capability: (i32, i32),
    multiprocessors: i32,
    launch_memory: usize,
    tally: Arc<Tally>,
    reserved: Mutex<Option<Reserved>>,
    /// Bytes that were asked for after a reservation and had no room in it.
    beside: AtomicU64,
}

/// A piece of the device's memory, in parts.
struct Reserved {
    at: u64,
    left: Arena,
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
            launch_memory: {
                let most = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
                usize::try_from(most).unwrap_or(0).saturating_sub(OWN_MEMORY)
            },
            tally: Arc::default(),
            reserved: Mutex::default(),
            beside: AtomicU64::new(0),
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

    /// Bytes of launch memory that a block may have.
    pub fn launch_memory(&self) -> usize {
        self.launch_memory
    }

    pub(super) fn bind(&self) -> Result<()> {
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

impl Context {
    /// What memory is counted in.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    fn reserved(&self) -> MutexGuard<'_, Option<Reserved>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `bytes` of the device's memory in one piece, for [`super::Memory`] from now on. Once; it stays as long
    /// as the context.
    ///
    /// # Errors
    /// [`crate::ComputeError::OutOfMemory`] when the device doesn't have it.
    pub fn reserve(&self, bytes: usize) -> Result<()> {
        self.bind()?;
        let mut reserved = self.reserved();
        if reserved.is_some() {
            return Err(refused("memory of the device is reserved twice".to_owned()));
        }
        let (at, left) = (allocate(bytes)?, Arena::new(bytes));
        *reserved = Some(Reserved { at, left });
        Ok(())
    }

    /// A part of what is reserved, if there is one.
    pub(super) fn take_reserved(&self, bytes: usize) -> Option<u64> {
        let mut reserved = self.reserved();
        let reserved = reserved.as_mut()?;
        Some(reserved.at + reserved.left.take(bytes)?)
    }

    /// Takes a part back.
    pub(super) fn give_reserved(&self, at: u64, bytes: usize) {
        if let Some(reserved) = self.reserved().as_mut() {
            reserved.left.give(at - reserved.at, bytes);
        }
    }

    /// Notes memory that had no room in what is reserved, where something is.
    pub(super) fn went_beside(&self, bytes: usize) {
        if self.reserved().is_some() {
            self.beside.fetch_add(bytes as u64, Relaxed);
        }
    }

    /// Bytes that were taken beside what is reserved.
    pub fn beside(&self) -> u64 {
        self.beside.load(Relaxed)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(reserved) = self.reserved().take()
            && self.bind().is_ok()
        {
            // SAFETY: given by the driver in `reserve`, freed once; every part of it holds the context.
            let _ = unsafe { result::free_sync(reserved.at) };
        }
        // SAFETY: retained once in `open`; whoever uses it holds it.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
