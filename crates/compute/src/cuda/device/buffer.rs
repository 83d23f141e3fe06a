//! Buffers of the device, and their parts as operands.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::super::blas::Matrix;
use super::super::driver::Memory;
use super::freeze::Hold;
use super::{Cuda, Precision};
use crate::operands::inside;
use crate::{ComputeError, Result, View, ViewMut};

/// Floats on the device.
pub struct CudaBuffer {
    pub(super) len: usize,
    /// Of `memory`.
    pub(super) element: Precision,
    pub(super) memory: Arc<Memory>,
    /// Weights in the precision that products take, where that is another.
    pub(super) rounded: Option<Memory>,
    /// Frozen parts whose bytes may not be on the host yet.
    pub(super) holds: Mutex<Vec<Weak<Hold>>>,
}

/// A checked part of a buffer.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub at: u64,
    pub len: usize,
    pub element: Precision,
}

impl Operand {
    pub fn matrix(self) -> Matrix {
        Matrix {
            at: self.at,
            element: self.element,
        }
    }

    pub fn bytes(self) -> usize {
        self.len * self.element.bytes()
    }

    /// Refused unless its elements are these.
    fn holding(self, element: Precision, op: &'static str, what: &'static str) -> Result<Self> {
        if self.element == element {
            return Ok(self);
        }
        Err(refused(op, what, self.element))
    }
}

impl Precision {
    /// Bytes of an element.
    pub(in crate::cuda) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// As kernels are named.
    pub(in crate::cuda) fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl CudaBuffer {
    pub(super) fn new(len: usize, element: Precision, memory: Memory, rounded: Option<Memory>) -> Self {
        Self {
            len,
            element,
            memory: Arc::new(memory),
            rounded,
            holds: Mutex::default(),
        }
    }

    fn operand(&self, range: &Range<usize>) -> Operand {
        Operand {
            at: self.memory.at() + (range.start * self.element.bytes()) as u64,
            len: range.len(),
            element: self.element,
        }
    }

    /// The rounded copy of a part of weights, if there is one.
    pub(super) fn rounded(&self, range: &Range<usize>) -> Option<Operand> {
        let element = Precision::Bf16;
        self.rounded.as_ref().map(|memory| Operand {
            at: memory.at() + (range.start * element.bytes()) as u64,
            len: range.len(),
            element,
        })
    }
}

/// What is stored, whatever it is.
pub(super) fn stored(op: &'static str, view: &View<'_, CudaBuffer>) -> Result<Operand> {
    inside(op, &view.range, view.buffer.len)?;
    Ok(view.buffer.operand(&view.range))
}

pub(super) fn refused(op: &'static str, what: &'static str, have: Precision) -> ComputeError {
    let have = have.suffix();
    ComputeError::Device {
        what: format!(
            "{op}: {what} lies in a buffer of {have}, which this operation doesn't take there (CUDA)"
        ),
    }
}

impl Cuda {
    /// What kernels read in the device's precision: activations, or weights' rounded copy.
    pub(super) fn reads(
        &self,
        op: &'static str,
        what: &'static str,
        view: &View<'_, CudaBuffer>,
    ) -> Result<Operand> {
        let plain = stored(op, view)?;
        view.buffer
            .rounded(&view.range)
            .unwrap_or(plain)
            .holding(self.precision, op, what)
    }

    /// As [`Cuda::reads`], in single precision whatever the device's is.
    pub(super) fn reads_wide(
        &self,
        op: &'static str,
        what: &'static str,
        view: &View<'_, CudaBuffer>,
    ) -> Result<Operand> {
        stored(op, view)?.holding(Precision::F32, op, what)
    }

    /// What is overwritten as it is stored; waits in the stream for copies of what is there. Weights that have a
    /// rounded copy are refused.
    pub(super) fn overwrites(
        &self,
        op: &'static str,
        what: &'static str,
        view: &ViewMut<'_, CudaBuffer>,
    ) -> Result<Operand> {
        if view.buffer.rounded.is_some() {
            return Err(refused(op, what, view.buffer.element));
        }
        self.overwrites_state(op, view)
    }

    /// As [`Cuda::overwrites`], weights too: whoever calls refreshes the rounded copy.
    pub(super) fn overwrites_state(
        &self,
        op: &'static str,
        view: &ViewMut<'_, CudaBuffer>,
    ) -> Result<Operand> {
        inside(op, &view.range, view.buffer.len)?;
        self.settle(op, view.buffer)?;
        Ok(view.buffer.operand(&view.range))
    }

    /// As [`Cuda::overwrites`], in the device's precision.
    pub(super) fn writes(
        &self,
        op: &'static str,
        what: &'static str,
        view: &ViewMut<'_, CudaBuffer>,
    ) -> Result<Operand> {
        self.overwrites(op, what, view)?.holding(self.precision, op, what)
    }

    /// As [`Cuda::overwrites`], in single precision.
    pub(super) fn writes_wide(
        &self,
        op: &'static str,
        what: &'static str,
        view: &ViewMut<'_, CudaBuffer>,
    ) -> Result<Operand> {
        self.overwrites(op, what, view)?.holding(Precision::F32, op, what)
    }

    /// Lets the stream wait for copies of the buffer; refused where one hasn't begun.
    fn settle(&self, op: &'static str, buffer: &CudaBuffer) -> Result<()> {
        let mut holds = buffer.holds.lock().unwrap_or_else(PoisonError::into_inner);
        for hold in holds.iter().filter_map(Weak::upgrade) {
            if !hold.settle(&self.stream)? {
                return Err(ComputeError::Frozen { op });
            }
        }
        holds.clear();
        Ok(())
    }
}
