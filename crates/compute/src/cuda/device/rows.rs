//! Operations row by row: norms, SwiGLU, embedding rows, loss; and casts.

use std::ops::Range;

use super::super::driver::Arg;
use super::super::kernels::{
    LOSS_THREADS, NORM_ROWS, PARTIAL_COLUMNS, PARTIAL_THREADS, ROW_THREADS, SURE_MEMORY, norm_launch,
};
use super::buffer::{Operand, stored};
use super::{Cuda, CudaBuffer, CudaIndices, Precision};
use crate::operands::{self, expect_len};
use crate::{ComputeError, Residual, Result, View, ViewMut};

/// Elements of a thread of plain kernels: 16 bytes.
fn packs(len: usize, element: Precision) -> [usize; 3] {
    [len.div_ceil(16 / element.bytes() * ROW_THREADS as usize), 1, 1]
}

impl Cuda {
    fn rows_kernel(&self, name: &str, grid: [usize; 3], args: &[Arg]) -> Result<()> {
        self.stream
            .launch(self.code.plain(name)?, grid, ROW_THREADS, 0, args)
    }

    fn typed_kernel(&self, name: &str, grid: [usize; 3], args: &[Arg]) -> Result<()> {
        self.rows_kernel(&format!("{name}_{}", self.precision.suffix()), grid, args)
    }

    pub(super) fn add_into(&self, dst: &ViewMut<'_, CudaBuffer>, src: &View<'_, CudaBuffer>) -> Result<()> {
        let (dst, src) = (
            self.writes("add", "target", dst)?,
            self.reads("add", "source", src)?,
        );
        expect_len("add", "source", src.len, dst.len)?;
        let args = [Arg::At(dst.at), Arg::At(src.at), Arg::Len(dst.len as u64)];
        self.typed_kernel("add", packs(dst.len, dst.element), &args)
    }

    /// `to[i] = from[i]`, rounded or widened. Equally long, of different precisions.
    pub(super) fn cast(&self, to: Operand, from: Operand) -> Result<()> {
        let name = format!("cast_{}_{}", from.element.suffix(), to.element.suffix());
        let args = [Arg::At(from.at), Arg::At(to.at), Arg::Len(to.len as u64)];
        let grid = [to.len.div_ceil(8 * ROW_THREADS as usize), 1, 1];
        self.rows_kernel(&name, grid, &args)
    }

    pub(super) fn norm_rows(
        &self,
        x: &View<'_, CudaBuffer>,
        delta: Option<Residual<'_, CudaBuffer>>,
        weight: &View<'_, CudaBuffer>,
        eps: f64,
        y: &ViewMut<'_, CudaBuffer>,
        rstd: &ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let op = "norm";
        let (x, weight) = (self.reads(op, "x", x)?, self.reads(op, "weight", weight)?);
        let (y, rstd) = (self.writes(op, "y", y)?, self.writes_wide(op, "rstd", rstd)?);
        expect_len(op, "x", x.len, rstd.len * weight.len)?;
        expect_len(op, "y", y.len, x.len)?;
        let (mut delta_at, mut sum_at) = (0, 0);
        if let Some((delta, sum)) = delta {
            let (delta, sum) = (self.reads(op, "delta", &delta)?, self.writes(op, "sum", &sum)?);
            expect_len(op, "delta", delta.len, x.len)?;
            expect_len(op, "sum", sum.len, x.len)?;
            (delta_at, sum_at) = (delta.at, sum.at);
        }
        let args = [
            Arg::At(x.at),
            Arg::At(delta_at),
            Arg::At(sum_at),
            Arg::At(weight.at),
            Arg::At(y.at),
            Arg::At(rstd.at),
            Arg::Int(weight.len as i32),
            Arg::Float(eps as f32),
        ];
        self.typed_kernel("norm", [rstd.len, 1, 1], &args)
    }

    pub(super) fn norm_rows_backward(
        &self,
        [x, weight, rstd]: [&View<'_, CudaBuffer>; 3],
        [dy_then_y, dx, dweight]: [&ViewMut<'_, CudaBuffer>; 3],
    ) -> Result<()> {
        let op = "norm_backward";
        let (x, weight) = (self.reads(op, "x", x)?, self.reads(op, "weight", weight)?);
        let rstd = self.reads_wide(op, "rstd", rstd)?;
        let (dy, dx) = (self.writes(op, "dy", dy_then_y)?, self.writes(op, "dx", dx)?);
        let dweight = self.overwrites(op, "dweight", dweight)?;
        expect_len(op, "x", x.len, rstd.len * weight.len)?;
        expect_len(op, "dy", dy.len, x.len)?;
        expect_len(op, "dx", dx.len, x.len)?;
        expect_len(op, "dweight", dweight.len, weight.len)?;
        let (rows, width) = (rstd.len, weight.len);
        let groups = rows.div_ceil(NORM_ROWS);
        let partial = self.space(groups * width * size_of::<f32>())?;
        let args = [
            Arg::At(x.at),
            Arg::At(weight.at),
            Arg::At(rstd.at),
            Arg::At(dy.at),
            Arg::At(dx.at),
            Arg::At(partial.at()),
            Arg::Int(rows as i32),
            Arg::Int(width as i32),
        ];
        let kernel = self.code.plain(&format!("{op}_{}", self.precision.suffix()))?;
        let (threads, memory) = norm_launch(width, self.precision.bytes()).ok_or(ComputeError::Shape {
            op,
            what: "weight",
            have: width,
            want: SURE_MEMORY / size_of::<f32>(),
        })?;
        self.stream
            .launch(kernel, [groups, 1, 1], threads, memory, &args)?;
        let args = [
            Arg::At(partial.at()),
            Arg::At(dweight.at),
            Arg::Int(groups as i32),
            Arg::Int(width as i32),
        ];
        let grid = [width.div_ceil(PARTIAL_COLUMNS), 1, 1];
        let kernel = self
            .code
            .plain(&format!("sum_partials_{}", dweight.element.suffix()))?;
        self.stream.launch(kernel, grid, PARTIAL_THREADS, 0, &args)
    }

    pub(super) fn gate(
        &self,
        width: usize,
        gate_up: &View<'_, CudaBuffer>,
        y: &ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let op = "swiglu";
        let (gate_up, y) = (self.reads(op, "gate_up", gate_up)?, self.writes(op, "y", y)?);
        expect_len(op, "gate_up", gate_up.len, 2 * y.len)?;
        let args = [Arg::At(gate_up.at), Arg::At(y.at), Arg::Int(width as i32)];
        self.typed_kernel(op, [y.len / width.max(1), 1, 1], &args)
    }

    pub(super) fn gate_backward(
        &self,
        width: usize,
        gate_up: &View<'_, CudaBuffer>,
        dy_then_y: &ViewMut<'_, CudaBuffer>,
        dgate_up: &ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let op = "swiglu_backward";
        let gate_up = self.reads(op, "gate_up", gate_up)?;
        let (dy, dgate_up) = (
            self.writes(op, "dy", dy_then_y)?,
            self.writes(op, "dgate_up", dgate_up)?,
        );
        expect_len(op, "gate_up", gate_up.len, 2 * dy.len)?;
        expect_len(op, "dgate_up", dgate_up.len, gate_up.len)?;
        let args = [
            Arg::At(gate_up.at),
            Arg::At(dy.at),
            Arg::At(dgate_up.at),
            Arg::Int(width as i32),
        ];
        self.typed_kernel(op, [dy.len / width.max(1), 1, 1], &args)
    }

    pub(super) fn take_rows(
        &self,
        width: usize,
        table: &View<'_, CudaBuffer>,
        tokens: &CudaIndices,
        out: &ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let op = "gather";
        let (table, out) = (self.reads(op, "table", table)?, self.writes(op, "out", out)?);
        expect_len(op, "out", out.len, width * tokens.values.len())?;
        operands::tokens(op, &tokens.values, table.len / width.max(1))?;
        let args = [
            Arg::At(table.at),
            Arg::At(tokens.at()),
            Arg::At(out.at),
            Arg::Int(width as i32),
        ];
        self.typed_kernel(op, [tokens.values.len(), 1, 1], &args)
    }

    pub(super) fn loss(
        &self,
        logits: &ViewMut<'_, CudaBuffer>,
        targets: &CudaIndices,
        rows: &Range<usize>,
        gradient: bool,
    ) -> Result<f64> {
        let op = "cross_entropy";
        let logits = self.writes(op, "logits", logits)?;
        let len = targets.values.len();
        let ids = targets.values.get(rows.clone()).ok_or(ComputeError::Range {
            op,
            start: rows.start,
            end: rows.end,
            len,
        })?;
        if ids.is_empty() {
            return Ok(0.0);
        }
        let width = logits.len / ids.len();
        expect_len(op, "logits", logits.len, width * ids.len())?;
        operands::tokens(op, ids, width)?;
        let mut losses = vec![0.0f64; ids.len()];
        let answers = self.answers(losses.len())?;
        let row = width * logits.element.bytes();
        // A row that fits is read from the device's memory once.
        let fits = row.is_multiple_of(16) && row <= self.stream.context().launch_memory();
        let args = [
            Arg::At(logits.at),
            Arg::At(targets.at() + (rows.start * size_of::<u32>()) as u64),
            Arg::At(answers.at()),
            Arg::Int(width as i32),
            Arg::Int(i32::from(gradient)),
            Arg::Int(i32::from(fits)),
        ];
        let kernel = self.code.plain(&format!("{op}_{}", self.precision.suffix()))?;
        self.stream.launch(
            kernel,
            [ids.len(), 1, 1],
            LOSS_THREADS,
            if fits { row } else { 0 },
            &args,
        )?;
        answers.read(&mut losses)?;
        // Row order, as on the CPU.
        Ok(losses.iter().sum())
    }

    /// The values of a part, on the host.
    pub(super) fn fetch(&self, op: &'static str, view: &View<'_, CudaBuffer>) -> Result<Vec<f32>> {
        let source = stored(op, view)?;
        let mut values = vec![0.0f32; source.len];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        if source.element == Precision::F32 {
            self.stream.copy_out(bytes, source.at)?;
            return Ok(values);
        }
        let space = self.space(bytes.len())?;
        let wide = Operand {
            at: space.at(),
            element: Precision::F32,
            ..source
        };
        self.cast(wide, source)?;
        self.stream.copy_out(bytes, space.at())?;
        Ok(values)
    }

    /// Overwrites a part with bytes of floats from the host.
    pub(super) fn store(&self, op: &'static str, dst: &ViewMut<'_, CudaBuffer>, src: &[u8]) -> Result<()> {
        let target = self.overwrites_state(op, dst)?;
        expect_len(op, "source", src.len(), target.len * size_of::<f32>())?;
        if target.element == Precision::F32 {
            self.stream.copy_in(target.at, src)?;
            return match dst.buffer.rounded(&dst.range) {
                Some(rounded) => self.cast(rounded, target),
                None => Ok(()),
            };
        }
        let space = self.space(src.len())?;
        self.stream.copy_in(space.at(), src)?;
        let wide = Operand {
            at: space.at(),
            element: Precision::F32,
            ..target
        };
        self.cast(target, wide)
    }

    pub(super) fn zero(&self, dst: &ViewMut<'_, CudaBuffer>) -> Result<()> {
        let target = self.overwrites_state("fill_zero", dst)?;
        self.stream.zero(target.at, target.bytes())?;
        match dst.buffer.rounded(&dst.range) {
            Some(rounded) => self.stream.zero(rounded.at, rounded.bytes()),
            None => Ok(()),
        }
    }
}
