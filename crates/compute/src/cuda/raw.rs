//! Calls into a library that was found, one symbol at a time, with results as plain numbers.
//!
//! What a machine has is asked for in this way and not through cudarc: a symbol that is missing is an error here and
//! a panic there, and a result code that is newer than the bindings is a number here and undefined behaviour in a
//! Rust enumeration.
//!
//! Deliberately absent: everything that computes.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::library::Found;

/// What couldn't be asked, as a sentence without a full stop.
pub type Answer<T> = std::result::Result<T, String>;

type Version = unsafe extern "C" fn(*mut c_int) -> c_int;
type Init = unsafe extern "C" fn(u32) -> c_int;
type Ordinal = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type Attribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type Total = unsafe extern "C" fn(*mut usize, c_int) -> c_int;
type Memory = unsafe extern "C" fn(*mut usize, *mut usize) -> c_int;
type Retain = unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int;
type Release = unsafe extern "C" fn(c_int) -> c_int;
type Push = unsafe extern "C" fn(*mut c_void) -> c_int;
type Pop = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
type Number = unsafe extern "C" fn() -> usize;

/// The function `name`, which ends with a zero byte.
///
/// # Safety
/// `F` is the C type of that function.
pub(super) unsafe fn function<F: Copy>(found: &Found, name: &CStr) -> Answer<F> {
    // SAFETY: the caller's promise; libraries are never unloaded, so that the pointer stays good.
    let symbol = unsafe { found.library.get::<F>(name.to_bytes_with_nul()) };
    symbol
        .map(|s| *s)
        .map_err(|_| format!("{} has no {}", found.path.display(), name.to_string_lossy()))
}

fn ok(code: c_int, what: &CStr) -> Answer<()> {
    if code == 0 {
        return Ok(());
    }
    Err(format!("{} gave {code}{}", what.to_string_lossy(), meaning(code)))
}

/// The driver's codes that a person can do something about (cuda.h).
fn meaning(code: c_int) -> &'static str {
    match code {
        3 | 803 => {
            " (driver and library don't fit together: restart the machine after an update of the driver)"
        }
        100 => " (the driver sees no device)",
        101 => " (no such device)",
        802 => " (the system isn't ready yet: is the fabric manager running?)",
        804 => " (the driver is too old for this compatibility library)",
        _ => "",
    }
}

/// A number that `name` writes: `ncclGetVersion`, `cuDriverGetVersion`, `cuDeviceGetCount`.
///
/// # Errors
/// The symbol is absent, or its result isn't 0.
pub fn written(found: &Found, name: &CStr) -> Answer<i32> {
    let mut value = 0;
    // SAFETY: the functions named above have this type; the result has a place.
    ok(unsafe { function::<Version>(found, name)?(&raw mut value) }, name)?;
    Ok(value)
}

/// A number that `name` returns: `cublasLtGetVersion`.
///
/// # Errors
/// The symbol is absent.
pub fn returned(found: &Found, name: &CStr) -> Answer<usize> {
    // SAFETY: the function named above has this type.
    Ok(unsafe { function::<Number>(found, name)?() })
}

/// Starts the driver in this process.
///
/// # Errors
/// The driver's reason, 100 where there is no device.
pub fn init(driver: &Found) -> Answer<()> {
    // SAFETY: cuInit takes flags, which must be 0.
    ok(unsafe { function::<Init>(driver, c"cuInit")?(0) }, c"cuInit")
}

/// The device of an ordinal.
///
/// # Errors
/// The driver's reason.
pub fn device(driver: &Found, ordinal: i32) -> Answer<i32> {
    let mut device = 0;
    // SAFETY: the driver is started; the result has a place.
    let code = unsafe { function::<Ordinal>(driver, c"cuDeviceGet")?(&raw mut device, ordinal) };
    ok(code, c"cuDeviceGet")?;
    Ok(device)
}

/// An attribute of a device, by its number in cuda.h.
///
/// # Errors
/// The driver's reason.
pub fn attribute(driver: &Found, device: i32, number: i32) -> Answer<i32> {
    let mut value = 0;
    // SAFETY: as above.
    let code =
        unsafe { function::<Attribute>(driver, c"cuDeviceGetAttribute")?(&raw mut value, number, device) };
    ok(code, c"cuDeviceGetAttribute")?;
    Ok(value)
}

/// A device's name.
///
/// # Errors
/// The driver's reason.
pub fn name(driver: &Found, device: i32) -> Answer<String> {
    let mut bytes = [0u8; 256];
    // One byte less than there are: a zero is left behind the longest name.
    // SAFETY: the place is longer than what the driver is told.
    let code =
        unsafe { function::<Name>(driver, c"cuDeviceGetName")?(bytes.as_mut_ptr().cast(), 255, device) };
    ok(code, c"cuDeviceGetName")?;
    let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    Ok(text.to_string_lossy().into_owned())
}

/// Bytes of memory that a device has.
///
/// # Errors
/// The driver's reason.
pub fn total_memory(driver: &Found, device: i32) -> Answer<usize> {
    let mut bytes = 0;
    // SAFETY: the driver is started; the result has a place.
    let code = unsafe { function::<Total>(driver, c"cuDeviceTotalMem_v2")?(&raw mut bytes, device) };
    ok(code, c"cuDeviceTotalMem_v2")?;
    Ok(bytes)
}

/// Bytes of memory that nobody uses, besides what a context takes: one is made for the question and let go.
///
/// # Errors
/// The driver's reason; a device that others use alone gives no context.
pub fn free_memory(driver: &Found, device: i32) -> Answer<usize> {
    let mut context = std::ptr::null_mut();
    // SAFETY: the driver is started; the result has a place.
    let code = unsafe { function::<Retain>(driver, c"cuDevicePrimaryCtxRetain")?(&raw mut context, device) };
    ok(code, c"cuDevicePrimaryCtxRetain")?;
    let free = free_inside(driver, context);
    // SAFETY: retained above, once, and current nowhere any more.
    let code = unsafe { function::<Release>(driver, c"cuDevicePrimaryCtxRelease_v2")?(device) };
    ok(code, c"cuDevicePrimaryCtxRelease_v2")?;
    free
}

fn free_inside(driver: &Found, context: *mut c_void) -> Answer<usize> {
    let (mut free, mut total, mut popped) = (0, 0, std::ptr::null_mut());
    // SAFETY: the context is retained by the caller; it is taken off this thread again before this returns.
    let (push, pop, memory) = unsafe {
        (
            function::<Push>(driver, c"cuCtxPushCurrent_v2")?,
            function::<Pop>(driver, c"cuCtxPopCurrent_v2")?,
            function::<Memory>(driver, c"cuMemGetInfo_v2")?,
        )
    };
    // SAFETY: as above.
    ok(unsafe { push(context) }, c"cuCtxPushCurrent_v2")?;
    // SAFETY: a context is current; both results have a place.
    let asked = ok(
        unsafe { memory(&raw mut free, &raw mut total) },
        c"cuMemGetInfo_v2",
    );
    // SAFETY: takes off what was pushed.
    ok(unsafe { pop(&raw mut popped) }, c"cuCtxPopCurrent_v2")?;
    asked.map(|()| free)
}
