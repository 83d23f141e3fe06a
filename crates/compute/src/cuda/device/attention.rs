//! Rotation and attention.

use super::super::driver::{Arg, ShapeArg};
use super::super::kernels::{
    ATTENTION_ROWS, ATTENTION_THREADS, AttentionPass, ROW_THREADS, attention_memory, compiled_head,
};
use super::buffer::Operand;
use super::{Cuda, CudaBuffer};
use crate::operands::{self, expect_len};
use crate::{AttentionShape, ComputeError, Result, View, ViewMut};

fn shape_arg(shape: &AttentionShape) -> Arg {
    Arg::Shape(ShapeArg {
        seq_len: shape.seq_len as i32,
        heads: shape.heads as i32,
        kv_heads: shape.kv_heads as i32,
        head_dim: shape.head_dim as i32,
        scale: shape.scale as f32,
    })
}

/// The kernels look for the greatest score before they scale it, which only a factor above 0 allows.
fn positive(op: &'static str, shape: &AttentionShape) -> Result<()> {
    if shape.scale > 0.0 {
        return Ok(());
    }
    Err(ComputeError::Device {
        what: format!(
            "{op}: a scale of {} isn't above 0, which attention on CUDA needs",
            shape.scale
        ),
    })
}

impl Cuda {
    pub(super) fn turn(
        &self,
        shape: &AttentionShape,
        qkv: &ViewMut<'_, CudaBuffer>,
        cos: &View<'_, CudaBuffer>,
        sin: &View<'_, CudaBuffer>,
        inverse: bool,
    ) -> Result<()> {
        let qkv = self.writes("rope", "qkv", qkv)?;
        let (cos, sin) = (
            self.reads_wide("rope", "cos", cos)?,
            self.reads_wide("rope", "sin", sin)?,
        );
        operands::attention("rope", shape)?;
        expect_len("rope", "qkv", qkv.len, shape.rows() * shape.stride())?;
        operands::rope(shape, cos.len, sin.len)?;
        let args = [
            Arg::At(qkv.at),
            Arg::At(cos.at),
            Arg::At(sin.at),
            Arg::Int(shape.seq_len as i32),
            Arg::Int(shape.stride() as i32),
            Arg::Int((shape.heads + shape.kv_heads) as i32),
            Arg::Int((shape.head_dim / 2) as i32),
            Arg::Float(if inverse { -1.0 } else { 1.0 }),
        ];
        let kernel = self.code.plain(&format!("rope_{}", qkv.element.suffix()))?;
        self.stream
            .launch(kernel, [shape.rows(), 1, 1], ROW_THREADS, 0, &args)
    }

    fn attention_kernel(
        &self,
        name: &str,
        pass: Option<AttentionPass>,
        shape: &AttentionShape,
        grid: [usize; 3],
        args: &[Arg],
    ) -> Result<()> {
        let name = format!("attention_{name}_{}", self.precision.suffix());
        let kernel = self.code.attention(&name, shape.head_dim)?;
        let width = compiled_head(shape.head_dim).unwrap_or_default();
        let memory = pass.map_or(0, |pass| attention_memory(pass, width, self.precision.bytes()));
        self.stream.launch(kernel, grid, ATTENTION_THREADS, memory, args)
    }

    pub(super) fn attend(
        &self,
        shape: &AttentionShape,
        qkv: &View<'_, CudaBuffer>,
        out: &ViewMut<'_, CudaBuffer>,
        lse: &ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let op = "attention";
        let (qkv, out) = (self.reads(op, "qkv", qkv)?, self.writes(op, "out", out)?);
        let lse = self.writes_wide(op, "lse", lse)?;
        operands::attention(op, shape)?;
        positive(op, shape)?;
        expect_len(op, "qkv", qkv.len, shape.rows() * shape.stride())?;
        expect_len(op, "out", out.len, shape.rows() * shape.width())?;
        expect_len(op, "lse", lse.len, shape.rows() * shape.heads)?;
        let args = [
            Arg::At(qkv.at),
            Arg::At(out.at),
            Arg::At(lse.at),
            shape_arg(shape),
        ];
        self.attention_kernel(
            "forward",
            Some(AttentionPass::Forward),
            shape,
            tiles(shape, shape.heads),
            &args,
        )
    }

    pub(super) fn attend_backward(
        &self,
        shape: &AttentionShape,
        [qkv, out, lse, dout]: [&View<'_, CudaBuffer>; 4],
        dqkv: &ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let op = "attention_backward";
        let (qkv, out, dout) = (
            self.reads(op, "qkv", qkv)?,
            self.reads(op, "out", out)?,
            self.reads(op, "dout", dout)?,
        );
        let (lse, dqkv) = (self.reads_wide(op, "lse", lse)?, self.writes(op, "dqkv", dqkv)?);
        operands::attention(op, shape)?;
        positive(op, shape)?;
        expect_len(op, "qkv", qkv.len, shape.rows() * shape.stride())?;
        expect_len(op, "dqkv", dqkv.len, qkv.len)?;
        expect_len(op, "out", out.len, shape.rows() * shape.width())?;
        expect_len(op, "dout", dout.len, out.len)?;
        expect_len(op, "lse", lse.len, shape.rows() * shape.heads)?;
        let space = self.space(lse.bytes())?;
        let rows = shape.rows() * shape.heads;
        let args = [
            Arg::At(out.at),
            Arg::At(dout.at),
            Arg::At(space.at()),
            shape_arg(shape),
            Arg::Int(shape.rows() as i32),
        ];
        let grid = [rows.div_ceil(ATTENTION_THREADS as usize / 32), 1, 1];
        self.attention_kernel("row_sums", None, shape, grid, &args)?;
        let at = |operand: Operand| Arg::At(operand.at);
        let args = [
            at(qkv),
            at(dout),
            at(lse),
            Arg::At(space.at()),
            at(dqkv),
            shape_arg(shape),
        ];
        let pass = Some(AttentionPass::Backward);
        self.attention_kernel("backward_keys", pass, shape, tiles(shape, shape.kv_heads), &args)?;
        self.attention_kernel("backward_queries", pass, shape, tiles(shape, shape.heads), &args)
    }
}

/// Blocks over tiles of rows, heads and sequences.
fn tiles(shape: &AttentionShape, heads: usize) -> [usize; 3] {
    [shape.seq_len.div_ceil(ATTENTION_ROWS), heads, shape.sequences]
}
