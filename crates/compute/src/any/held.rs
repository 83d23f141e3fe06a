//! What lies on a device that was chosen at run time.

use crate::cuda::Cuda;
use crate::{Cpu, Device, Frozen, Result};

type OnCpu = Cpu<f32>;

macro_rules! either {
    ($(#[$doc:meta])* $name:ident, $what:ident) => {
        $(#[$doc])*
        #[allow(clippy::large_enum_variant, reason = "a process has few, of one variant")]
        pub enum $name {
            /// On the CPU.
            Cpu(<OnCpu as Device>::$what),
            /// On a CUDA device.
            Cuda(<Cuda as Device>::$what),
        }
    };
}

either!(
    /// Memory of [`super::AnyDevice`].
    AnyBuffer,
    Buffer
);
either!(
    /// Token ids on [`super::AnyDevice`].
    AnyIndices,
    Indices
);
either!(
    /// Gradient accumulators of [`super::AnyDevice`].
    AnySums,
    Sums
);
either!(
    /// What a part of an [`AnyBuffer`] held.
    AnyFrozen,
    Frozen
);

impl Frozen for AnyFrozen {
    fn bytes(&self) -> Result<&[u8]> {
        match self {
            Self::Cpu(frozen) => frozen.bytes(),
            Self::Cuda(frozen) => frozen.bytes(),
        }
    }
}
