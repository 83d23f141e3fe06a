//! Sizes of what operations take beside their operands, for whoever plans memory without a device.
//!
//! They are what the devices themselves go by: a plan that has other numbers is wrong.

/// What a kind of device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Every buffer takes a multiple of so many bytes.
    pub alignment: usize,
    /// See [`crate::Device::logits_at_once`].
    pub logits_at_once: usize,
    /// The backward pass of a norm keeps one partial sum for so many rows.
    pub norm_rows: usize,
    /// Rows of a tile of attention that is worked on in memory (0: in registers and launch memory alone).
    pub attention_tile: usize,
    /// Columns of what is packed for products inside attention come in multiples of this (0: nothing is packed).
    pub vector: usize,
    /// Bytes that the library of matrix products is given.
    pub workspace: usize,
    /// The work space that operations share grows in steps of so many bytes (0: there is none).
    pub space_step: usize,
}

/// Those of [`crate::Cpu`].
pub const CPU: Sizes = crate::cpu::SIZES;
/// Those of [`crate::cuda::Cuda`].
pub const CUDA: Sizes = crate::cuda::SIZES;
