//! Every operation, passed on to the device inside.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use super::operand::{all, own};
use super::{AnyBuffer, AnyDevice, AnyFrozen, AnyIndices, AnySums};
use crate::cuda::Cuda;
use crate::{
    AdamPart, AdamSource, AdamStep, AdamTarget, AttentionShape, Cpu, Device, ElementBytes, Hashing, Product,
    Residual, Result, SumKind, View, ViewMut,
};

type Buf<'a> = View<'a, AnyBuffer>;
type BufMut<'a> = ViewMut<'a, AnyBuffer>;

/// The operation on the device inside, all operands as that device's own; with `=> Any`, what comes back is one of
/// `Any`'s.
macro_rules! on {
    ($self:ident.$op:ident($($operand:ident),*) $(=> $any:ident)?) => {
        match $self {
            AnyDevice::Cpu(device) => device
                .$op($(own::<Cpu<f32>, _>($operand, stringify!($op), stringify!($operand))?),*)
                $(.map($any::Cpu))?,
            AnyDevice::Cuda(device) => device
                .$op($(own::<Cuda, _>($operand, stringify!($op), stringify!($operand))?),*)
                $(.map($any::Cuda))?,
        }
    };
}

impl Device for AnyDevice {
    type Float = f32;
    type Buffer = AnyBuffer;
    type Indices = AnyIndices;
    type Sums = AnySums;
    type Frozen = AnyFrozen;

    fn alloc(&self, len: usize) -> Result<AnyBuffer> {
        on!(self.alloc(len) => AnyBuffer)
    }
    fn alloc_state(&self, len: usize) -> Result<AnyBuffer> {
        on!(self.alloc_state(len) => AnyBuffer)
    }
    fn alloc_weights(&self, len: usize) -> Result<AnyBuffer> {
        on!(self.alloc_weights(len) => AnyBuffer)
    }
    fn alloc_wide(&self, len: usize) -> Result<AnyBuffer> {
        on!(self.alloc_wide(len) => AnyBuffer)
    }
    fn element_bytes(&self) -> ElementBytes {
        match self {
            Self::Cpu(device) => device.element_bytes(),
            Self::Cuda(device) => device.element_bytes(),
        }
    }
    fn logits_at_once(&self) -> usize {
        match self {
            Self::Cpu(device) => device.logits_at_once(),
            Self::Cuda(device) => device.logits_at_once(),
        }
    }
    /// Of a buffer of the other device: 0, so that every range of it is refused.
    fn len(&self, buffer: &AnyBuffer) -> usize {
        match (self, buffer) {
            (Self::Cpu(device), AnyBuffer::Cpu(buffer)) => device.len(buffer),
            (Self::Cuda(device), AnyBuffer::Cuda(buffer)) => device.len(buffer),
            _ => 0,
        }
    }
    fn read<'a>(&self, src: Buf<'a>) -> Result<Cow<'a, [f32]>> {
        on!(self.read(src))
    }
    fn bytes<'a>(&self, src: Buf<'a>) -> Result<Cow<'a, [u8]>> {
        on!(self.bytes(src))
    }
    fn write(&self, dst: BufMut<'_>, src: &[f32]) -> Result<()> {
        on!(self.write(dst, src))
    }
    fn write_bytes(&self, dst: BufMut<'_>, src: &[u8]) -> Result<()> {
        on!(self.write_bytes(dst, src))
    }
    fn write_indices(&self, into: &mut AnyIndices, src: &[u32]) -> Result<()> {
        on!(self.write_indices(into, src))
    }
    fn alloc_indices(&self) -> Result<AnyIndices> {
        on!(self.alloc_indices() => AnyIndices)
    }

    fn fill_zero(&self, dst: BufMut<'_>) -> Result<()> {
        on!(self.fill_zero(dst))
    }
    fn add(&self, dst: BufMut<'_>, src: Buf<'_>) -> Result<()> {
        on!(self.add(dst, src))
    }
    fn product(&self, shape: Product, c: BufMut<'_>, a: Buf<'_>, b: Buf<'_>) -> Result<()> {
        on!(self.product(shape, c, a, b))
    }
    fn norm(
        &self,
        x: Buf<'_>,
        delta: Option<Residual<'_, AnyBuffer>>,
        weight: Buf<'_>,
        eps: f64,
        y: BufMut<'_>,
        rstd: BufMut<'_>,
    ) -> Result<()> {
        on!(self.norm(x, delta, weight, eps, y, rstd))
    }
    fn norm_backward(
        &self,
        x: Buf<'_>,
        weight: Buf<'_>,
        rstd: Buf<'_>,
        dy_then_y: BufMut<'_>,
        dx: BufMut<'_>,
        dweight: BufMut<'_>,
    ) -> Result<()> {
        on!(self.norm_backward(x, weight, rstd, dy_then_y, dx, dweight))
    }
    fn rope(
        &self,
        shape: AttentionShape,
        qkv: BufMut<'_>,
        cos: Buf<'_>,
        sin: Buf<'_>,
        inverse: bool,
    ) -> Result<()> {
        on!(self.rope(shape, qkv, cos, sin, inverse))
    }
    fn attention(&self, shape: AttentionShape, qkv: Buf<'_>, out: BufMut<'_>, lse: BufMut<'_>) -> Result<()> {
        on!(self.attention(shape, qkv, out, lse))
    }
    fn attention_backward(
        &self,
        shape: AttentionShape,
        qkv: Buf<'_>,
        out: Buf<'_>,
        lse: Buf<'_>,
        dout: Buf<'_>,
        dqkv: BufMut<'_>,
    ) -> Result<()> {
        on!(self.attention_backward(shape, qkv, out, lse, dout, dqkv))
    }
    fn swiglu(&self, width: usize, gate_up: Buf<'_>, y: BufMut<'_>) -> Result<()> {
        on!(self.swiglu(width, gate_up, y))
    }
    fn swiglu_backward(
        &self,
        width: usize,
        gate_up: Buf<'_>,
        dy_then_y: BufMut<'_>,
        dgate_up: BufMut<'_>,
    ) -> Result<()> {
        on!(self.swiglu_backward(width, gate_up, dy_then_y, dgate_up))
    }
    fn cross_entropy(
        &self,
        logits: BufMut<'_>,
        targets: &AnyIndices,
        rows: Range<usize>,
        gradient: bool,
    ) -> Result<f64> {
        on!(self.cross_entropy(logits, targets, rows, gradient))
    }
    fn gather(&self, width: usize, table: Buf<'_>, tokens: &AnyIndices, out: BufMut<'_>) -> Result<()> {
        on!(self.gather(width, table, tokens, out))
    }

    fn alloc_sums(&self, kind: SumKind, len: usize) -> Result<AnySums> {
        on!(self.alloc_sums(kind, len) => AnySums)
    }
    fn sums_bytes<'a>(&self, sums: &'a AnySums, range: Range<usize>) -> Result<Cow<'a, [u8]>> {
        on!(self.sums_bytes(sums, range))
    }
    fn add_sums_bytes(&self, sums: &mut AnySums, range: Range<usize>, bytes: &[u8]) -> Result<()> {
        on!(self.add_sums_bytes(sums, range, bytes))
    }
    fn accumulate(&self, sums: &mut AnySums, at: usize, gradient: Buf<'_>) -> Result<()> {
        on!(self.accumulate(sums, at, gradient))
    }
    fn accumulate_product(
        &self,
        sums: &mut AnySums,
        at: usize,
        shape: Product,
        a: Buf<'_>,
        b: Buf<'_>,
        scratch: BufMut<'_>,
    ) -> Result<()> {
        on!(self.accumulate_product(sums, at, shape, a, b, scratch))
    }
    fn accumulate_rows(
        &self,
        sums: &mut AnySums,
        width: usize,
        tokens: &AnyIndices,
        gradient: Buf<'_>,
    ) -> Result<()> {
        on!(self.accumulate_rows(sums, width, tokens, gradient))
    }
    fn clear(&self, sums: &mut AnySums, range: Range<usize>) -> Result<()> {
        on!(self.clear(sums, range))
    }
    fn block_squares(
        &self,
        sums: &AnySums,
        range: Range<usize>,
        block: usize,
        tokens: u64,
    ) -> Result<Vec<f64>> {
        on!(self.block_squares(sums, range, block, tokens))
    }
    fn mean(&self, sums: &AnySums, range: Range<usize>, tokens: u64) -> Result<Vec<f32>> {
        on!(self.mean(sums, range, tokens))
    }
    fn mean_and_squares(
        &self,
        sums: &AnySums,
        range: Range<usize>,
        block: usize,
        tokens: u64,
        out: &mut [f32],
    ) -> Result<Vec<f64>> {
        on!(self.mean_and_squares(sums, range, block, tokens, out))
    }
    fn adamw(
        &self,
        target: AdamTarget<'_, AnyBuffer>,
        source: AdamSource<'_, AnyBuffer>,
        sums: &mut AnySums,
        at: Range<usize>,
        step: &AdamStep,
        parts: &[AdamPart],
        hashing: Option<Hashing<'_>>,
    ) -> Result<bool> {
        on!(self.adamw(target, source, sums, at, step, parts, hashing))
    }
    fn adamw_with(
        &self,
        target: AdamTarget<'_, AnyBuffer>,
        source: AdamSource<'_, AnyBuffer>,
        gradient: &[f32],
        step: &AdamStep,
        parts: &[AdamPart],
    ) -> Result<()> {
        on!(self.adamw_with(target, source, gradient, step, parts))
    }

    fn freeze(&self, buffer: &AnyBuffer, range: Range<usize>) -> Result<AnyFrozen> {
        on!(self.freeze(buffer, range) => AnyFrozen)
    }
    fn reserve_spares(&self, lens: &[usize]) -> Result<()> {
        on!(self.reserve_spares(lens))
    }
    fn thaw<const N: usize>(
        &self,
        buffers: [&mut AnyBuffer; N],
        patience: Duration,
    ) -> Result<[Option<AnyBuffer>; N]> {
        Ok(match self {
            Self::Cpu(device) => device
                .thaw(all::<Cpu<f32>, N>(buffers)?, patience)?
                .map(|old| old.map(AnyBuffer::Cpu)),
            Self::Cuda(device) => device
                .thaw(all::<Cuda, N>(buffers)?, patience)?
                .map(|old| old.map(AnyBuffer::Cuda)),
        })
    }
}
