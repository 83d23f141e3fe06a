//! The library itself: found, its version checked, its functions looked up once. It needs no device.
//!
//! Bound by hand and not through cudarc: that one looks for `libnccl.so` only, panics where a symbol is absent, and
//! has result codes as a Rust enumeration, in which a code of a newer NCCL would be undefined behaviour. Here a code
//! is a number.
//!
//! Deliberately absent: communicators.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use super::super::library::{Found, Kind, find};
use super::super::raw;
use super::{Code, OLDEST, UniqueId};
use crate::{ComputeError, Result};

/// A communicator as NCCL knows it.
pub(super) type Raw = *mut c_void;

type Initialise = unsafe extern "C" fn(*mut Raw, c_int, UniqueId, c_int, *mut Config) -> c_int;
type Split = unsafe extern "C" fn(Raw, c_int, c_int, *mut Raw, *mut Config) -> c_int;
type Shrink = unsafe extern "C" fn(Raw, *mut c_int, c_int, *mut Raw, *mut Config, c_int) -> c_int;
type Grow = unsafe extern "C" fn(Raw, c_int, *const UniqueId, c_int, *mut Raw, *mut Config) -> c_int;
type Transfer = unsafe extern "C" fn(u64, usize, c_int, c_int, Raw, *mut c_void) -> c_int;
type OfComm = unsafe extern "C" fn(Raw) -> c_int;

/// `ncclConfig_t` as of 2.18, which newer libraries read as far as its `size` and `version` go.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

const UNDEFINED: c_int = c_int::MIN;

impl Config {
    /// Nothing but that calls don't block.
    pub(super) const fn new() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 21_800,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
        }
    }
}

/// What not every version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Leaving ranks out, 2.27.3.
    Shrink,
    /// Taking ranks in, 2.29.2.
    Grow,
}

impl Since {
    /// Whether a version has it.
    #[must_use]
    pub fn in_version(self, version: i32) -> bool {
        version
            >= match self {
                Self::Shrink => 22_703,
                Self::Grow => 22_902,
            }
    }
}

/// NCCL's functions.
pub struct Library {
    version: i32,
    pub(super) unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(Raw) -> *const c_char,
    pub(super) init: Initialise,
    pub(super) split: Split,
    pub(super) shrink: Option<Shrink>,
    pub(super) grow: Option<Grow>,
    pub(super) grow_id: Option<unsafe extern "C" fn(Raw, *mut UniqueId) -> c_int>,
    pub(super) state: unsafe extern "C" fn(Raw, *mut c_int) -> c_int,
    pub(super) send: Transfer,
    pub(super) recv: Transfer,
    pub(super) finalize: OfComm,
    pub(super) destroy: OfComm,
    pub(super) abort: OfComm,
}

fn refused(what: &str) -> ComputeError {
    ComputeError::Device {
        what: format!("NCCL can't be used: {what}; {}", Kind::Nccl.remedy()),
    }
}

impl Library {
    /// Finds NCCL.
    ///
    /// # Errors
    /// [`ComputeError::Device`] saying what is missing and how to get it.
    pub fn find() -> Result<Self> {
        let found = find(Kind::Nccl).ok_or_else(|| refused("no libnccl.so.2 was found"))?;
        let version = raw::written(&found, c"ncclGetVersion").map_err(|why| refused(&why))?;
        if version < OLDEST {
            return Err(refused(&format!("version {version} is older than {OLDEST}")));
        }
        Self::look_up(&found, version).map_err(|why| refused(&why))
    }

    fn look_up(found: &Found, version: i32) -> raw::Answer<Self> {
        // SAFETY: each field has the C type of its function in nccl.h (2.18 to 2.32), with results as numbers and
        // addresses of the device as 64-bit numbers, which are passed as pointers are on every platform that CUDA
        // supports.
        unsafe {
            Ok(Self {
                version,
                unique_id: raw::function(found, c"ncclGetUniqueId")?,
                error_string: raw::function(found, c"ncclGetErrorString")?,
                last_error: raw::function(found, c"ncclGetLastError")?,
                init: raw::function(found, c"ncclCommInitRankConfig")?,
                split: raw::function(found, c"ncclCommSplit")?,
                shrink: newer(found, version, Since::Shrink, c"ncclCommShrink")?,
                grow: newer(found, version, Since::Grow, c"ncclCommGrow")?,
                grow_id: newer(found, version, Since::Grow, c"ncclCommGetUniqueId")?,
                state: raw::function(found, c"ncclCommGetAsyncError")?,
                send: raw::function(found, c"ncclSend")?,
                recv: raw::function(found, c"ncclRecv")?,
                finalize: raw::function(found, c"ncclCommFinalize")?,
                destroy: raw::function(found, c"ncclCommDestroy")?,
                abort: raw::function(found, c"ncclCommAbort")?,
            })
        }
    }

    /// 10000 × major + 100 × minor + patch.
    #[must_use]
    pub fn version(&self) -> i32 {
        self.version
    }

    /// A new id to meet under.
    ///
    /// # Errors
    /// NCCL's code.
    pub fn unique_id(&self) -> std::result::Result<UniqueId, Code> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: the result has a place of its size.
        match Code(unsafe { (self.unique_id)(&raw mut id) }) {
            Code::SUCCESS => Ok(id),
            code => Err(code),
        }
    }

    /// What a code means, and what the last failure in this process was.
    #[must_use]
    pub fn explain(&self, code: Code) -> String {
        // SAFETY: takes any number, and gives a text that is never freed.
        let meaning = text(unsafe { (self.error_string)(code.0) });
        // SAFETY: the communicator may be null; the text is NCCL's own, which another thread's failure may overwrite
        // but not unmap.
        let last = text(unsafe { (self.last_error)(std::ptr::null_mut()) });
        match last.trim() {
            "" => format!("{} ({meaning})", code.0),
            last => format!("{} ({meaning}; {last})", code.0),
        }
    }
}

/// A function that versions from `since` on have.
///
/// # Safety
/// `F` is the C type of that function.
unsafe fn newer<F: Copy>(found: &Found, version: i32, since: Since, name: &CStr) -> raw::Answer<Option<F>> {
    match since.in_version(version) {
        // SAFETY: the caller's promise.
        true => unsafe { raw::function(found, name) }.map(Some),
        false => Ok(None),
    }
}

/// A text of NCCL's, cut at 300 bytes.
fn text(at: *const c_char) -> String {
    if at.is_null() {
        return String::new();
    }
    // SAFETY: NCCL's texts end with a zero byte.
    let bytes = unsafe { CStr::from_ptr(at) }.to_bytes();
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_have_the_layout_of_2_18() {
        assert_eq!(size_of::<Config>(), 48);
        assert_eq!(std::mem::offset_of!(Config, blocking), 16);
        assert_eq!(std::mem::offset_of!(Config, net_name), 32);
        assert_eq!(std::mem::offset_of!(Config, split_share), 40);
    }

    #[test]
    fn what_a_version_has_is_known_before_it_is_asked_for() {
        assert!(!Since::Shrink.in_version(22_602) && Since::Shrink.in_version(22_703));
        assert!(!Since::Grow.in_version(22_809) && Since::Grow.in_version(23_203));
    }
}
