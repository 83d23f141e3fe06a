//! What a rank takes of its device's memory, by what it is for.
//!
//! In: a job, its plan, a rank, a kind of device. Out: bytes. The buffers are those that the stage engine allocates
//! (`Stage::new`, `Slots`, `Scratch` in `rekindle-model`), one by one, and the work space of the device's operations;
//! a test in `rekindle-worker` trains and holds the sum against what the device counted.
//!
//! The figures of a CUDA device are derived from the code in the same way, from the device's own sizes ([`Sizes`],
//! compared with the device's by a test). What was never held against a GPU: these figures. What isn't in them: a
//! context, code, and what cuBLASLt takes by itself.
//!
//! Deliberately absent: memory of the host. Shadows, parities and what goes from rank to rank lie there (see
//! [`mod@crate::survival`]), the copies that a CUDA device makes of frozen state, too.

mod stage;
mod table;

use rekindle_types::{Dtype, JobSpec, Plan, Rank};
use serde::Serialize;

use crate::cost::FLOAT_BYTES;
use stage::StageShape;
pub(crate) use table::write_table;

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The processor, with so many threads that compute.
    Cpu {
        /// Threads.
        threads: u32,
    },
    /// A CUDA device.
    Cuda,
}

/// Sizes that a kind of device goes by; see `rekindle_compute::sizes`, which a test compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Every buffer takes a multiple of so many bytes.
    pub alignment: u64,
    /// About how many logits are worked on at once.
    pub logits_at_once: u64,
    /// The backward pass of a norm keeps one partial sum for so many rows.
    pub norm_rows: u64,
    /// Rows of a tile of attention that is worked on in memory.
    pub attention_tile: u64,
    /// Columns of what is packed inside attention come in multiples of this.
    pub vector: u64,
    /// Bytes that the library of matrix products is given.
    pub workspace: u64,
    /// The shared work space grows in steps of so many bytes.
    pub space_step: u64,
}

impl Sizes {
    /// Those of the CPU device.
    pub const CPU: Self = Self {
        alignment: 1,
        logits_at_once: 1 << 21,
        norm_rows: 64,
        attention_tile: 32,
        vector: 16,
        workspace: 0,
        space_step: 0,
    };
    /// Those of the CUDA device.
    pub const CUDA: Self = Self {
        alignment: 256,
        logits_at_once: 1 << 28,
        norm_rows: 8,
        attention_tile: 0,
        vector: 0,
        workspace: 32 << 20,
        space_step: 1 << 20,
    };

    /// Of a kind of device.
    #[must_use]
    pub fn of(on: On) -> Self {
        match on {
            On::Cpu { .. } => Self::CPU,
            On::Cuda => Self::CUDA,
        }
    }
}

/// Bytes of a device's memory by use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Memory {
    /// Weights in single precision, a copy of a tied matrix included.
    pub weights: u64,
    /// Their rounded copies, with `dtype = "bf16"`.
    pub rounded: u64,
    /// Gradient sums.
    pub gradients: u64,
    /// Adam's moments of what the rank owns.
    pub moments: u64,
    /// What micro-batches in flight keep for their backward passes.
    pub activations: u64,
    /// What one pass works in: the block at work, logits, the largest gradient of a matrix; and evaluation's
    /// activations.
    pub scratch: u64,
    /// Buffers that updates go on in while the state before them is held (on a CPU; a CUDA device copies that to the
    /// host).
    pub spares: u64,
    /// Work space of operations and of the library of matrix products.
    pub workspace: u64,
}

impl Memory {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.uses().into_iter().map(|(_, bytes)| bytes).sum()
    }

    /// By use, with the words for it.
    #[must_use]
    pub fn uses(&self) -> [(&'static str, u64); 8] {
        [
            ("weights", self.weights),
            ("rounded", self.rounded),
            ("gradients", self.gradients),
            ("moments", self.moments),
            ("activations", self.activations),
            ("scratch", self.scratch),
            ("spares", self.spares),
            ("work space", self.workspace),
        ]
    }
}

/// What `rank` of `plan` takes on a device of this kind.
#[must_use]
pub fn memory(spec: &JobSpec, plan: &Plan, rank: Rank, on: On) -> Memory {
    let stage = StageShape::of(spec, plan, rank, on);
    Memory {
        weights: stage.weights(FLOAT_BYTES),
        rounded: match spec.training.dtype {
            Dtype::F32 => 0,
            Dtype::Bf16 => stage.weights(FLOAT_BYTES / 2),
        },
        gradients: stage.weights(stage.sum),
        moments: stage.moments(),
        activations: stage.in_flight * stage.slot(stage.blocks),
        scratch: stage.scratch(),
        spares: stage.spares(),
        workspace: match on {
            On::Cpu { threads } => stage.beside_operands(threads),
            On::Cuda => stage.sizes.workspace + stage.space(),
        },
    }
}

/// What of [`Memory::workspace`] the operations of a CUDA device share, bytes.
#[must_use]
pub fn shared_space(spec: &JobSpec, plan: &Plan, rank: Rank) -> u64 {
    StageShape::of(spec, plan, rank, On::Cuda).space()
}
