//! [`Device`] for CUDA: each operation is one beside this file.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use super::super::driver::Memory;
use super::{Cuda, CudaBuffer, CudaFrozen, CudaIndices, CudaSums, Precision};
use crate::operands;
use crate::{
    AdamPart, AdamSource, AdamStep, AdamTarget, AttentionShape, Device, ElementBytes, Hashing, Product,
    Residual, Result, SumKind, View, ViewMut,
};

impl Cuda {
    fn zeroed(&self, len: usize, element: Precision) -> Result<Memory> {
        Memory::zeroed(&self.stream, len * element.bytes())
    }
}

impl Device for Cuda {
    type Float = f32;
    type Buffer = CudaBuffer;
    type Indices = CudaIndices;
    type Sums = CudaSums;
    type Frozen = CudaFrozen;

    fn alloc(&self, len: usize) -> Result<CudaBuffer> {
        let element = self.precision;
        Ok(CudaBuffer::new(len, element, self.zeroed(len, element)?, None))
    }

    fn alloc_state(&self, len: usize) -> Result<CudaBuffer> {
        self.alloc_wide(len)
    }

    fn alloc_weights(&self, len: usize) -> Result<CudaBuffer> {
        let rounded = match self.precision {
            Precision::F32 => None,
            Precision::Bf16 => Some(self.zeroed(len, Precision::Bf16)?),
        };
        Ok(CudaBuffer::new(
            len,
            Precision::F32,
            self.zeroed(len, Precision::F32)?,
            rounded,
        ))
    }

    fn alloc_wide(&self, len: usize) -> Result<CudaBuffer> {
        Ok(CudaBuffer::new(
            len,
            Precision::F32,
            self.zeroed(len, Precision::F32)?,
            None,
        ))
    }

    fn element_bytes(&self) -> ElementBytes {
        let wide = Precision::F32.bytes();
        let rounded = match self.precision {
            Precision::F32 => 0,
            Precision::Bf16 => Precision::Bf16.bytes(),
        };
        ElementBytes {
            weights: wide + rounded,
            activations: self.precision.bytes(),
            wide,
        }
    }

    fn logits_at_once(&self) -> usize {
        crate::sizes::CUDA.logits_at_once
    }

    fn len(&self, buffer: &CudaBuffer) -> usize {
        buffer.len
    }

    fn read<'a>(&self, src: View<'a, CudaBuffer>) -> Result<Cow<'a, [f32]>> {
        self.fetch("read", &src).map(Cow::Owned)
    }

    fn bytes<'a>(&self, src: View<'a, CudaBuffer>) -> Result<Cow<'a, [u8]>> {
        let values = self.fetch("bytes", &src)?;
        Ok(Cow::Owned(bytemuck::cast_slice(&values).to_vec()))
    }

    fn write(&self, dst: ViewMut<'_, CudaBuffer>, src: &[f32]) -> Result<()> {
        operands::expect_len("write", "source", src.len(), dst.range.len())?;
        self.store("write", &dst, bytemuck::cast_slice(src))
    }

    fn write_bytes(&self, dst: ViewMut<'_, CudaBuffer>, src: &[u8]) -> Result<()> {
        self.store("write_bytes", &dst, src)
    }

    fn write_indices(&self, into: &mut CudaIndices, src: &[u32]) -> Result<()> {
        into.write(&self.stream, src)
    }

    fn alloc_indices(&self) -> Result<CudaIndices> {
        Ok(CudaIndices::default())
    }

    fn fill_zero(&self, dst: ViewMut<'_, CudaBuffer>) -> Result<()> {
        self.zero(&dst)
    }

    fn add(&self, dst: ViewMut<'_, CudaBuffer>, src: View<'_, CudaBuffer>) -> Result<()> {
        self.add_into(&dst, &src)
    }

    fn product(
        &self,
        shape: Product,
        c: ViewMut<'_, CudaBuffer>,
        a: View<'_, CudaBuffer>,
        b: View<'_, CudaBuffer>,
    ) -> Result<()> {
        let c = self.overwrites("product", "c", &c)?;
        let (a, b) = (self.reads("product", "a", &a)?, self.reads("product", "b", &b)?);
        operands::product(&shape, c.len, a.len, b.len)?;
        self.blas
            .product(&self.stream, shape, c.matrix(), a.matrix(), b.matrix())
    }

    fn norm(
        &self,
        x: View<'_, CudaBuffer>,
        delta: Option<Residual<'_, CudaBuffer>>,
        weight: View<'_, CudaBuffer>,
        eps: f64,
        y: ViewMut<'_, CudaBuffer>,
        rstd: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.norm_rows(&x, delta, &weight, eps, &y, &rstd)
    }

    fn norm_backward(
        &self,
        x: View<'_, CudaBuffer>,
        weight: View<'_, CudaBuffer>,
        rstd: View<'_, CudaBuffer>,
        dy_then_y: ViewMut<'_, CudaBuffer>,
        dx: ViewMut<'_, CudaBuffer>,
        dweight: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.norm_rows_backward([&x, &weight, &rstd], [&dy_then_y, &dx, &dweight])
    }

    fn rope(
        &self,
        shape: AttentionShape,
        qkv: ViewMut<'_, CudaBuffer>,
        cos: View<'_, CudaBuffer>,
        sin: View<'_, CudaBuffer>,
        inverse: bool,
    ) -> Result<()> {
        self.turn(&shape, &qkv, &cos, &sin, inverse)
    }

    fn attention(
        &self,
        shape: AttentionShape,
        qkv: View<'_, CudaBuffer>,
        out: ViewMut<'_, CudaBuffer>,
        lse: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.attend(&shape, &qkv, &out, &lse)
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        qkv: View<'_, CudaBuffer>,
        out: View<'_, CudaBuffer>,
        lse: View<'_, CudaBuffer>,
        dout: View<'_, CudaBuffer>,
        dqkv: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.attend_backward(&shape, [&qkv, &out, &lse, &dout], &dqkv)
    }

    fn swiglu(&self, width: usize, gate_up: View<'_, CudaBuffer>, y: ViewMut<'_, CudaBuffer>) -> Result<()> {
        self.gate(width, &gate_up, &y)
    }

    fn swiglu_backward(
        &self,
        width: usize,
        gate_up: View<'_, CudaBuffer>,
        dy_then_y: ViewMut<'_, CudaBuffer>,
        dgate_up: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.gate_backward(width, &gate_up, &dy_then_y, &dgate_up)
    }

    fn cross_entropy(
        &self,
        logits: ViewMut<'_, CudaBuffer>,
        targets: &CudaIndices,
        rows: Range<usize>,
        gradient: bool,
    ) -> Result<f64> {
        self.loss(&logits, targets, &rows, gradient)
    }

    fn gather(
        &self,
        width: usize,
        table: View<'_, CudaBuffer>,
        tokens: &CudaIndices,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.take_rows(width, &table, tokens, &out)
    }

    fn alloc_sums(&self, kind: SumKind, len: usize) -> Result<CudaSums> {
        self.new_sums(kind, len)
    }

    fn sums_bytes<'a>(&self, sums: &'a CudaSums, range: Range<usize>) -> Result<Cow<'a, [u8]>> {
        self.read_sums(sums, &range).map(Cow::Owned)
    }

    fn add_sums_bytes(&self, sums: &mut CudaSums, range: Range<usize>, bytes: &[u8]) -> Result<()> {
        self.join_sums(sums, &range, bytes)
    }

    fn accumulate(&self, sums: &mut CudaSums, at: usize, gradient: View<'_, CudaBuffer>) -> Result<()> {
        self.add_view(sums, at, &gradient)
    }

    fn accumulate_product(
        &self,
        sums: &mut CudaSums,
        at: usize,
        shape: Product,
        a: View<'_, CudaBuffer>,
        b: View<'_, CudaBuffer>,
        scratch: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.add_product((sums, at), shape, (&a, &b), &scratch)
    }

    fn accumulate_rows(
        &self,
        sums: &mut CudaSums,
        width: usize,
        tokens: &CudaIndices,
        gradient: View<'_, CudaBuffer>,
    ) -> Result<()> {
        self.add_rows(sums, width, tokens, &gradient)
    }

    fn clear(&self, sums: &mut CudaSums, range: Range<usize>) -> Result<()> {
        self.zero_sums(sums, &range)
    }

    fn block_squares(
        &self,
        sums: &CudaSums,
        range: Range<usize>,
        block: usize,
        tokens: u64,
    ) -> Result<Vec<f64>> {
        self.squares(sums, &range, block, tokens)
    }

    fn mean(&self, sums: &CudaSums, range: Range<usize>, tokens: u64) -> Result<Vec<f32>> {
        self.means(sums, &range, tokens)
    }

    fn adamw(
        &self,
        target: AdamTarget<'_, CudaBuffer>,
        source: AdamSource<'_, CudaBuffer>,
        sums: &mut CudaSums,
        at: Range<usize>,
        step: &AdamStep,
        parts: &[AdamPart],
        _hashing: Option<Hashing<'_>>,
    ) -> Result<bool> {
        self.step_adamw(&target, source, sums, &at, step, parts)?;
        // Hashes are made where the bytes are read, on the host.
        Ok(false)
    }

    fn freeze(&self, buffer: &CudaBuffer, range: Range<usize>) -> Result<CudaFrozen> {
        self.hold(buffer, &range)
    }

    fn reserve_spares(&self, lens: &[usize]) -> Result<()> {
        self.pool.reserve(lens.iter().map(|len| len * size_of::<f32>()))
    }

    fn thaw<const N: usize>(
        &self,
        buffers: [&mut CudaBuffer; N],
        patience: Duration,
    ) -> Result<[Option<CudaBuffer>; N]> {
        for buffer in buffers {
            self.begin_copies(buffer, patience)?;
        }
        Ok([const { None }; N])
    }
}
