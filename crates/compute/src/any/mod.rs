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

use crate::cuda::Cuda;
use crate::{Cpu, HandedOut};

/// A device that was chosen at run time.
pub enum AnyDevice {
    /// This machine's processor.
    Cpu(Cpu<f32>),
    /// A CUDA device.
    Cuda(Box<Cuda>),
}

impl AnyDevice {
    /// Bytes of memory that it has handed out.
    #[must_use]
    pub fn handed_out(&self) -> HandedOut {
        match self {
            Self::Cpu(cpu) => cpu.handed_out(),
            Self::Cuda(cuda) => cuda.handed_out(),
        }
    }
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
