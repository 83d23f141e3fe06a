//! Gradient accumulators on the device: 64-bit fixed point, or floats.

use std::ops::Range;

use super::super::blas::Matrix;
use super::super::driver::{Arg, Memory};
use super::super::kernels::SUM_THREADS;
use super::buffer::stored;
use super::{Cuda, CudaBuffer, CudaIndices, Precision};
use crate::operands::{self, expect_len, inside};
use crate::{ComputeError, Product, Result, SumKind, View, ViewMut};

/// Accumulators.
pub struct CudaSums {
    kind: SumKind,
    len: usize,
    memory: Memory,
}

impl CudaSums {
    fn width(&self) -> usize {
        match self.kind {
            SumKind::Fixed { .. } => size_of::<i64>(),
            SumKind::Float => size_of::<f32>(),
        }
    }

    pub(super) fn at(&self, element: usize) -> u64 {
        self.memory.at() + (element * self.width()) as u64
    }

    /// The end of the names of kernels on them.
    pub(super) fn suffix(&self) -> &'static str {
        match self.kind {
            SumKind::Fixed { .. } => "",
            SumKind::Float => "_plain",
        }
    }

    fn scale(&self) -> Arg {
        match self.kind {
            SumKind::Fixed { shift } => Arg::Float((1u64 << shift.min(60)) as f32),
            SumKind::Float => Arg::Float(1.0),
        }
    }

    /// What a kernel turns them into means with.
    pub(super) fn mean_args(&self, tokens: u64) -> [Arg; 2] {
        let unit = match self.kind {
            SumKind::Fixed { shift } => 1.0 / (1u64 << shift.min(60)) as f64,
            SumKind::Float => 1.0,
        };
        [Arg::Double(unit), Arg::Double(tokens.max(1) as f64)]
    }

    pub(super) fn check(&self, op: &'static str, range: &Range<usize>) -> Result<()> {
        inside(op, range, self.len)
    }
}

/// Blocks of a launch with four elements a thread.
pub(super) fn fours(len: usize) -> [usize; 3] {
    [len.div_ceil(4 * SUM_THREADS as usize), 1, 1]
}

impl Cuda {
    fn sums_kernel(&self, name: &str, grid: [usize; 3], args: &[Arg]) -> Result<()> {
        self.stream
            .launch(self.code.plain(name)?, grid, SUM_THREADS, 0, args)
    }

    pub(super) fn new_sums(&self, kind: SumKind, len: usize) -> Result<CudaSums> {
        let width = match kind {
            SumKind::Fixed { .. } => size_of::<i64>(),
            SumKind::Float => size_of::<f32>(),
        };
        Ok(CudaSums {
            kind,
            len,
            memory: Memory::zeroed(&self.stream, len * width)?,
        })
    }

    pub(super) fn read_sums(&self, sums: &CudaSums, range: &Range<usize>) -> Result<Vec<u8>> {
        sums.check("sums_bytes", range)?;
        let mut bytes = vec![0; range.len() * sums.width()];
        self.stream.copy_out(&mut bytes, sums.at(range.start))?;
        Ok(bytes)
    }

    pub(super) fn join_sums(&self, sums: &mut CudaSums, range: &Range<usize>, bytes: &[u8]) -> Result<()> {
        let op = "add_sums_bytes";
        sums.check(op, range)?;
        expect_len(op, "bytes", bytes.len(), range.len() * sums.width())?;
        let space = self.space(bytes.len())?;
        self.stream.copy_in(space.at(), bytes)?;
        let args = [
            Arg::At(sums.at(range.start)),
            Arg::At(space.at()),
            Arg::Len(range.len() as u64),
        ];
        self.sums_kernel(&format!("add_sums{}", sums.suffix()), fours(range.len()), &args)
    }

    /// Adds a gradient that lies as it is stored, of either precision.
    pub(super) fn add_gradient(
        &self,
        sums: &CudaSums,
        at: usize,
        gradient: Matrix,
        len: usize,
    ) -> Result<()> {
        let plain = match sums.kind {
            SumKind::Fixed { .. } => "",
            SumKind::Float => "plain_",
        };
        let name = format!("accumulate_{plain}{}", gradient.element.suffix());
        let args = [
            Arg::At(sums.at(at)),
            Arg::At(gradient.at),
            Arg::Len(len as u64),
            sums.scale(),
        ];
        self.sums_kernel(&name, fours(len), &args)
    }

    pub(super) fn add_view(
        &self,
        sums: &mut CudaSums,
        at: usize,
        gradient: &View<'_, CudaBuffer>,
    ) -> Result<()> {
        let gradient = stored("accumulate", gradient)?;
        sums.check("accumulate", &(at..at + gradient.len))?;
        self.add_gradient(sums, at, gradient.matrix(), gradient.len)
    }

    pub(super) fn add_product(
        &self,
        (sums, at): (&mut CudaSums, usize),
        shape: Product,
        (a, b): (&View<'_, CudaBuffer>, &View<'_, CudaBuffer>),
        scratch: &ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let op = "accumulate_product";
        let (a, b) = (self.reads(op, "a", a)?, self.reads(op, "b", b)?);
        let (scratch, len) = (self.overwrites(op, "scratch", scratch)?, shape.m * shape.n);
        sums.check(op, &(at..at + len))?;
        operands::product(&shape, len, a.len, b.len)?;
        let (fixed, to) = match sums.kind {
            SumKind::Fixed { .. } => (true, scratch.matrix()),
            SumKind::Float => {
                let element = Precision::F32;
                (
                    false,
                    Matrix {
                        at: sums.at(at),
                        element,
                    },
                )
            }
        };
        if fixed && scratch.len < len {
            return Err(ComputeError::Shape {
                op,
                what: "scratch",
                have: scratch.len,
                want: len,
            });
        }
        let shape = Product {
            accumulate: !fixed,
            ..shape
        };
        self.blas
            .product(&self.stream, shape, to, a.matrix(), b.matrix())?;
        if fixed {
            self.add_gradient(sums, at, to, len)?;
        }
        Ok(())
    }

    pub(super) fn add_rows(
        &self,
        sums: &mut CudaSums,
        width: usize,
        tokens: &CudaIndices,
        gradient: &View<'_, CudaBuffer>,
    ) -> Result<()> {
        let op = "accumulate_rows";
        let gradient = self.reads(op, "gradient", gradient)?;
        expect_len(op, "gradient", gradient.len, tokens.values.len() * width)?;
        operands::tokens(op, &tokens.values, sums.len / width.max(1))?;
        let plain = match sums.kind {
            SumKind::Fixed { .. } => "",
            SumKind::Float => "plain_",
        };
        let grouped = tokens.grouped(&self.stream)?;
        let args = [
            Arg::At(sums.at(0)),
            Arg::At(gradient.at),
            Arg::At(grouped.rows),
            Arg::At(grouped.groups),
            Arg::Int(width as i32),
            sums.scale(),
        ];
        let grid = [grouped.count, width.div_ceil(SUM_THREADS as usize), 1];
        self.sums_kernel(
            &format!("accumulate_rows_{plain}{}", gradient.element.suffix()),
            grid,
            &args,
        )
    }

    pub(super) fn zero_sums(&self, sums: &mut CudaSums, range: &Range<usize>) -> Result<()> {
        sums.check("clear", range)?;
        self.stream.zero(sums.at(range.start), range.len() * sums.width())
    }

    pub(super) fn squares(
        &self,
        sums: &CudaSums,
        range: &Range<usize>,
        block: usize,
        tokens: u64,
    ) -> Result<Vec<f64>> {
        sums.check("block_squares", range)?;
        if block == 0 || !range.start.is_multiple_of(block) {
            return Err(ComputeError::Shape {
                op: "block_squares",
                what: "range.start",
                have: range.start,
                want: block,
            });
        }
        let mut squares = vec![0.0f64; range.len().div_ceil(block)];
        let answers = self.answers(squares.len())?;
        let [unit, tokens] = sums.mean_args(tokens);
        let args = [
            Arg::At(sums.at(range.start)),
            Arg::At(answers.at()),
            Arg::Len(range.len() as u64),
            Arg::Len(block as u64),
            unit,
            tokens,
        ];
        let grid = [squares.len().div_ceil(SUM_THREADS as usize / 16), 1, 1];
        self.sums_kernel(&format!("block_squares{}", sums.suffix()), grid, &args)?;
        answers.read(&mut squares)?;
        Ok(squares)
    }

    pub(super) fn means(&self, sums: &CudaSums, range: &Range<usize>, tokens: u64) -> Result<Vec<f32>> {
        sums.check("mean", range)?;
        let mut means = vec![0.0f32; range.len()];
        let space = self.space(size_of_val(means.as_slice()))?;
        let [unit, tokens] = sums.mean_args(tokens);
        let args = [
            Arg::At(sums.at(range.start)),
            Arg::At(space.at()),
            Arg::Len(range.len() as u64),
            unit,
            tokens,
        ];
        self.sums_kernel(&format!("mean{}", sums.suffix()), fours(range.len()), &args)?;
        self.stream
            .copy_out(bytemuck::cast_slice_mut(&mut means), space.at())?;
        Ok(means)
    }
}
