//! Compiles kernels for one kind of device with NVRTC, which needs neither a device nor a driver.
//!
//! In: a module, the device's architecture (`sm_90`). Out: machine code (a CUBIN), so that whatever is wrong with
//! inline instructions is found here and not when the code is loaded.
//!
//! Deliberately absent: keeping what was compiled. Calls of NVRTC are in this file alone.

use std::ffi::{CString, c_char};

use cudarc::nvrtc::sys;

use super::kernels::{Module, PLATFORM};
use super::library::{Kind, find};
use crate::{ComputeError, Result};

/// Options of every compilation: products and sums stay apart, as the kernels' bits want.
pub const OPTIONS: [&str; 2] = ["--fmad=false", "--std=c++17"];

fn refused(what: String) -> ComputeError {
    ComputeError::Device { what }
}

/// Whether NVRTC can be had.
///
/// # Errors
/// [`ComputeError::Device`] saying how to get it.
pub fn available() -> Result<()> {
    let found = find(Kind::Nvrtc).is_some();
    // SAFETY: looks for the library that was just found, or for the same names once more.
    if found && unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(refused(format!(
        "NVRTC, which compiles kernels, isn't there: {}",
        Kind::Nvrtc.remedy()
    )))
}

/// NVRTC's version.
///
/// # Errors
/// As [`available`].
pub fn version() -> Result<(i32, i32)> {
    available()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two places to write a number to.
    let code = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    check(code, || String::from("its version can't be read"))?;
    Ok((major, minor))
}

fn check(code: sys::nvrtcResult, what: impl FnOnce() -> String) -> Result<()> {
    if code == sys::nvrtcResult::NVRTC_SUCCESS {
        return Ok(());
    }
    Err(refused(format!("NVRTC: {} ({code:?})", what())))
}

/// A program that is destroyed when it goes.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `create` and destroyed only here. Nothing can be done about a failure.
        let _ = unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

impl Program {
    fn create(source: &str, name: &str) -> Result<Self> {
        let text = |t: &str| CString::new(t).map_err(|e| refused(format!("a source with a zero byte: {e}")));
        let (source, file) = (text(source)?, text(name)?);
        let mut program = std::ptr::null_mut();
        // SAFETY: both texts end with a zero and outlive the call, which copies them; there are no headers.
        let code = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                source.as_ptr(),
                file.as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        check(code, || format!("{name} wasn't taken"))?;
        Ok(Self(program))
    }

    /// Bytes that NVRTC first says the number of, then writes.
    fn bytes(
        &self,
        size: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
        get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
    ) -> Result<Vec<u8>> {
        let mut len = 0;
        // SAFETY: the program lives; the result has a place.
        check(unsafe { size(self.0, &raw mut len) }, || {
            "a size can't be read".to_owned()
        })?;
        let mut bytes = vec![0u8; len];
        // SAFETY: the program lives; the place has the length that NVRTC said.
        check(unsafe { get(self.0, bytes.as_mut_ptr().cast()) }, || {
            "bytes can't be read".to_owned()
        })?;
        Ok(bytes)
    }

    fn log(&self) -> String {
        let bytes = self
            .bytes(sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog)
            .unwrap_or_default();
        String::from_utf8_lossy(&bytes)
            .trim_end_matches(['\0', '\n'])
            .to_owned()
    }
}

/// Compiles a module for `arch` (`sm_80` and newer). `head_dim` as for [`Module::source`].
///
/// # Errors
/// [`ComputeError::Device`]: NVRTC isn't there, or its messages on the source.
pub fn compile(module: &Module, head_dim: usize, arch: &str) -> Result<Vec<u8>> {
    compile_source(&module.source(PLATFORM, head_dim), module.file, arch)
}

/// As [`compile`], any source.
///
/// # Errors
/// As [`compile`].
pub fn compile_source(source: &str, name: &str, arch: &str) -> Result<Vec<u8>> {
    available()?;
    let program = Program::create(source, name)?;
    let arch_option = format!("--gpu-architecture={arch}");
    let options: Vec<CString> = std::iter::once(arch_option.as_str())
        .chain(OPTIONS)
        .map(|o| CString::new(o).map_err(|e| refused(format!("an architecture with a zero byte: {e}"))))
        .collect::<Result<_>>()?;
    let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
    let count = i32::try_from(pointers.len()).unwrap_or(0);
    // SAFETY: the program lives; `count` texts that end with a zero and outlive the call.
    let code = unsafe { sys::nvrtcCompileProgram(program.0, count, pointers.as_ptr()) };
    check(code, || format!("{name} for {arch}:\n{}\n", program.log()))?;
    program.bytes(sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)
}
