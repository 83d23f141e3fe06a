//! The CPU or a CUDA device, whichever was chosen when the process was started.
//!
//! ```text
//!   operation(operands) --which device?--> the operands as that device's own --> its operation
//! ```
//!
//! Bits are those of the device inside. An operand that lies on the other kind of device is an error that names it.
//!
//! Deliberately absent: choosing, and several devices at work at once.

mod held;
mod operand;
mod ops;

pub use held::{AnyBuffer, AnyFrozen, AnyIndices, AnySums};

use crate::Cpu;
use crate::cuda::Cuda;

/// A device that was chosen at run time.
pub enum AnyDevice {
    /// This machine's processor.
    Cpu(Cpu<f32>),
    /// A CUDA device.
    Cuda(Box<Cuda>),
}

impl From<Cpu<f32>> for AnyDevice {
    fn from(cpu: Cpu<f32>) -> Self {
        Self::Cpu(cpu)
    }
}

impl From<Cuda> for AnyDevice {
    fn from(cuda: Cuda) -> Self {
        Self::Cuda(Box::new(cuda))
    }
}
