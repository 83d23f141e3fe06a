//! The driver: contexts, memory, streams, events, code and launches, each freed by the value that owns it.
//!
//! In: sizes, addresses, bytes. Out: the same, or an error that names the driver's call. Every call makes its context
//! current on the calling thread first, so that values may be used and dropped on any thread.
//!
//! Invariants
//! - CP-6 Memory that a kernel or a copy in flight uses stays allocated: the driver finishes a device's work before
//!   it frees, and what is given back to the piece that was reserved is used again only by work that comes later in
//!   the same stream.
//!
//! Deliberately absent: what kernels compute. Calls of the driver that do work are in this module alone.

mod code;
mod context;
mod event;
mod memory;
mod stream;

use cudarc::driver::result::DriverError;

pub use code::{Arg, Function, Image, ShapeArg};
pub use context::Context;
pub use event::Event;
pub use memory::{Memory, Pinned};
pub use stream::Stream;

use super::fault::of_driver;
use crate::{ComputeError, Result};

fn refused(what: String) -> ComputeError {
    ComputeError::Device { what }
}

/// An error that names the call, as [`of_driver`] takes it.
fn failed(call: &str, error: DriverError) -> ComputeError {
    let code = error.0 as u32;
    let name = error.error_name().map(|n| n.to_string_lossy().into_owned());
    let what = format!(
        "CUDA: {call} gave {code} ({})",
        name.unwrap_or_else(|_| "unknown".to_owned())
    );
    of_driver(code).error(what)
}

trait Named<T> {
    fn named(self, call: &str) -> Result<T>;
}

impl<T> Named<T> for std::result::Result<T, DriverError> {
    fn named(self, call: &str) -> Result<T> {
        self.map_err(|error| failed(call, error))
    }
}
