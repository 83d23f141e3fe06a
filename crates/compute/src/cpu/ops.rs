//! `Device` for the CPU: each operation checks its operands and calls its kernel.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use super::buffer::Aligned;
use super::held::{self, CpuBuffer, CpuFrozen};
use super::meter::{Running, Work};
use super::operands::{self, expect_len, read, write};
use super::sums::CpuSums;
use super::{Cpu, adamw, attention, embed, loss, matmul, norm, rope, sums, swiglu};
use crate::{
    AdamPart, AdamSource, AdamStep, AdamTarget, AttentionShape, ComputeError, Device, Float, Hashing,
    Product, Residual, Result, SumKind, View, ViewMut, part,
};

type Buf<F> = CpuBuffer<F>;

impl<F: Float> Cpu<F> {
    fn multiplying(&self, shape: &Product) -> Running<'_> {
        let Product { m, n, k, .. } = *shape;
        self.meter
            .start(Work::Product, 2 * m * n * k, (m * k + k * n + m * n) * F::BYTES)
    }

    fn adding(&self, sums: &CpuSums<F>, len: usize) -> Running<'_> {
        self.meter
            .start(Work::Other, 0, len * (F::BYTES + 2 * sums.width()))
    }
}

impl<F: Float> Device for Cpu<F> {
    type Float = F;
    type Buffer = Buf<F>;
    type Indices = Vec<u32>;
    type Sums = CpuSums<F>;
    type Frozen = CpuFrozen<F>;

    fn alloc(&self, len: usize) -> Result<Buf<F>> {
        let values = Aligned::zeroed(len)?.counted(&self.tally);
        Ok(CpuBuffer::new(values, &self.spares))
    }

    fn alloc_state(&self, len: usize) -> Result<Buf<F>> {
        Ok(CpuBuffer::new(self.spares.state(len)?, &self.spares))
    }

    fn len(&self, buffer: &Buf<F>) -> usize {
        buffer.values().len()
    }

    fn read<'a>(&self, src: View<'a, Buf<F>>) -> Result<Cow<'a, [F]>> {
        read("read", src).map(Cow::Borrowed)
    }

    fn bytes<'a>(&self, src: View<'a, Buf<F>>) -> Result<Cow<'a, [u8]>> {
        read("bytes", src).map(|s| Cow::Borrowed(bytemuck::cast_slice(s)))
    }

    fn write(&self, dst: ViewMut<'_, Buf<F>>, src: &[F]) -> Result<()> {
        let dst = write("write", dst)?;
        expect_len("write", "source", src.len(), dst.len())?;
        dst.copy_from_slice(src);
        Ok(())
    }

    fn write_bytes(&self, dst: ViewMut<'_, Buf<F>>, src: &[u8]) -> Result<()> {
        let dst: &mut [u8] = bytemuck::cast_slice_mut(write("write_bytes", dst)?);
        expect_len("write_bytes", "source", src.len(), dst.len())?;
        dst.copy_from_slice(src);
        Ok(())
    }

    fn write_indices(&self, into: &mut Vec<u32>, src: &[u32]) -> Result<()> {
        into.clear();
        into.extend_from_slice(src);
        Ok(())
    }

    fn alloc_indices(&self) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    fn fill_zero(&self, dst: ViewMut<'_, Buf<F>>) -> Result<()> {
        write("fill_zero", dst)?.fill(F::ZERO);
        Ok(())
    }

    fn add(&self, dst: ViewMut<'_, Buf<F>>, src: View<'_, Buf<F>>) -> Result<()> {
        let (dst, src) = (write("add", dst)?, read("add", src)?);
        expect_len("add", "source", src.len(), dst.len())?;
        const TASK: usize = 32 * 1024;
        let _meter = self.meter.start(Work::Other, 0, (3 * src.len()) * F::BYTES);
        let parts = super::pool::Chunks::of(dst, TASK);
        self.pool.each(parts.count(), |task| {
            // SAFETY: each task takes the chunk of its own number.
            sums::add_plain(unsafe { parts.take(task) }, super::pool::chunk(src, TASK, task));
        });
        Ok(())
    }

    fn product(
        &self,
        shape: Product,
        c: ViewMut<'_, Buf<F>>,
        a: View<'_, Buf<F>>,
        b: View<'_, Buf<F>>,
    ) -> Result<()> {
        let (c, a, b) = (write("product", c)?, read("product", a)?, read("product", b)?);
        operands::product(&shape, c.len(), a.len(), b.len())?;
        let _meter = self.multiplying(&shape);
        matmul::product(&self.pool, shape, c, a, b);
        Ok(())
    }

    fn norm(
        &self,
        x: View<'_, Buf<F>>,
        delta: Option<Residual<'_, Buf<F>>>,
        weight: View<'_, Buf<F>>,
        eps: f64,
        y: ViewMut<'_, Buf<F>>,
        rstd: ViewMut<'_, Buf<F>>,
    ) -> Result<()> {
        let (x, weight, y, rstd) = (
            read("norm", x)?,
            read("norm", weight)?,
            write("norm", y)?,
            write("norm", rstd)?,
        );
        expect_len("norm", "x", x.len(), rstd.len() * weight.len())?;
        expect_len("norm", "y", y.len(), x.len())?;
        let delta = match delta {
            Some((delta, sum)) => Some((read("norm", delta)?, write("norm", sum)?)),
            None => None,
        };
        if let Some((delta, sum)) = &delta {
            expect_len("norm", "delta", delta.len(), x.len())?;
            expect_len("norm", "sum", sum.len(), x.len())?;
        }
        let _meter = self.meter.start(
            Work::Other,
            0,
            (x.len() * if delta.is_some() { 4 } else { 2 }) * F::BYTES,
        );
        norm::forward(
            &self.pool,
            norm::Forward {
                x,
                delta,
                weight,
                eps,
                y,
                rstd,
            },
        );
        Ok(())
    }

    fn norm_backward(
        &self,
        x: View<'_, Buf<F>>,
        weight: View<'_, Buf<F>>,
        rstd: View<'_, Buf<F>>,
        dy_then_y: ViewMut<'_, Buf<F>>,
        dx: ViewMut<'_, Buf<F>>,
        dweight: ViewMut<'_, Buf<F>>,
    ) -> Result<()> {
        let op = "norm_backward";
        let (x, weight, rstd) = (read(op, x)?, read(op, weight)?, read(op, rstd)?);
        let (dy_then_y, dx, dweight) = (write(op, dy_then_y)?, write(op, dx)?, write(op, dweight)?);
        expect_len(op, "x", x.len(), rstd.len() * weight.len())?;
        expect_len(op, "dy", dy_then_y.len(), x.len())?;
        expect_len(op, "dx", dx.len(), x.len())?;
        expect_len(op, "dweight", dweight.len(), weight.len())?;
        let _meter = self.meter.start(Work::Other, 0, (5 * x.len()) * F::BYTES);
        let mut partial = vec![F::ZERO; norm::partial_len(rstd.len(), weight.len())];
        let _counted = self.tally.count(partial.len() * F::BYTES);
        norm::backward(
            &self.pool,
            norm::Backward {
                x,
                weight,
                rstd,
                dy_then_y,
                dx,
                dweight,
                partial: &mut partial,
            },
        );
        Ok(())
    }

    fn rope(
        &self,
        shape: AttentionShape,
        qkv: ViewMut<'_, Buf<F>>,
        cos: View<'_, Buf<F>>,
        sin: View<'_, Buf<F>>,
        inverse: bool,
    ) -> Result<()> {
        let (qkv, cos, sin) = (write("rope", qkv)?, read("rope", cos)?, read("rope", sin)?);
        operands::attention("rope", &shape)?;
        expect_len("rope", "qkv", qkv.len(), shape.rows() * shape.stride())?;
        operands::rope(&shape, cos.len(), sin.len())?;
        let _meter = self.meter.start(Work::Other, 0, (2 * qkv.len()) * F::BYTES);
        rope::turn(&self.pool, shape, qkv, cos, sin, inverse);
        Ok(())
    }

    fn attention(
        &self,
        shape: AttentionShape,
        qkv: View<'_, Buf<F>>,
        out: ViewMut<'_, Buf<F>>,
        lse: ViewMut<'_, Buf<F>>,
    ) -> Result<()> {
        let op = "attention";
        let (qkv, out, lse) = (read(op, qkv)?, write(op, out)?, write(op, lse)?);
        operands::attention(op, &shape)?;
        expect_len(op, "qkv", qkv.len(), shape.rows() * shape.stride())?;
        expect_len(op, "out", out.len(), shape.rows() * shape.width())?;
        expect_len(op, "lse", lse.len(), shape.rows() * shape.heads)?;
        let _meter = self.meter.start(
            Work::Attention,
            4 * operands::pairs(&shape),
            (qkv.len() + out.len()) * F::BYTES,
        );
        attention::forward(&self.pool, &self.scratch, shape, qkv, out, lse);
        Ok(())
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        qkv: View<'_, Buf<F>>,
        out: View<'_, Buf<F>>,
        lse: View<'_, Buf<F>>,
        dout: View<'_, Buf<F>>,
        dqkv: ViewMut<'_, Buf<F>>,
    ) -> Result<()> {
        let op = "attention_backward";
        let (qkv, out, lse, dout) = (read(op, qkv)?, read(op, out)?, read(op, lse)?, read(op, dout)?);
        let dqkv = write(op, dqkv)?;
        operands::attention(op, &shape)?;
        expect_len(op, "qkv", qkv.len(), shape.rows() * shape.stride())?;
        expect_len(op, "dqkv", dqkv.len(), qkv.len())?;
        expect_len(op, "out", out.len(), shape.rows() * shape.width())?;
        expect_len(op, "dout", dout.len(), out.len())?;
        expect_len(op, "lse", lse.len(), shape.rows() * shape.heads)?;
        let io = attention::Backward { qkv, out, lse, dout };
        let _meter = self.meter.start(
            Work::Attention,
            10 * operands::pairs(&shape),
            2 * (qkv.len() + out.len()) * F::BYTES,
        );
        attention::backward(&self.pool, &self.scratch, shape, io, dqkv);
        Ok(())
    }

    fn swiglu(&self, width: usize, gate_up: View<'_, Buf<F>>, y: ViewMut<'_, Buf<F>>) -> Result<()> {
        let (gate_up, y) = (read("swiglu", gate_up)?, write("swiglu", y)?);
        expect_len("swiglu", "gate_up", gate_up.len(), 2 * y.len())?;
        let _meter = self.meter.start(Work::Other, 0, (3 * y.len()) * F::BYTES);
        swiglu::forward(&self.pool, width, gate_up, y);
        Ok(())
    }

    fn swiglu_backward(
        &self,
        width: usize,
        gate_up: View<'_, Buf<F>>,
        dy_then_y: ViewMut<'_, Buf<F>>,
        dgate_up: ViewMut<'_, Buf<F>>,
    ) -> Result<()> {
        let op = "swiglu_backward";
        let (gate_up, dy, dgate_up) = (read(op, gate_up)?, write(op, dy_then_y)?, write(op, dgate_up)?);
        expect_len(op, "gate_up", gate_up.len(), 2 * dy.len())?;
        expect_len(op, "dgate_up", dgate_up.len(), gate_up.len())?;
        let _meter = self.meter.start(Work::Other, 0, (6 * dy.len()) * F::BYTES);
        swiglu::backward(&self.pool, width, gate_up, dy, dgate_up);
        Ok(())
    }

    fn cross_entropy(
        &self,
        logits: ViewMut<'_, Buf<F>>,
        targets: &Vec<u32>,
        rows: Range<usize>,
        gradient: bool,
    ) -> Result<f64> {
        let op = "cross_entropy";
        let logits = write(op, logits)?;
        let len = targets.len();
        let targets = targets.get(rows.clone()).ok_or(ComputeError::Range {
            op,
            start: rows.start,
            end: rows.end,
            len,
        })?;
        if targets.is_empty() {
            return Ok(0.0);
        }
        let width = logits.len() / targets.len();
        expect_len(op, "logits", logits.len(), width * targets.len())?;
        operands::tokens(op, targets, width)?;
        let _meter = self.meter.start(Work::Other, 0, (2 * logits.len()) * F::BYTES);
        Ok(loss::cross_entropy(&self.pool, width, logits, targets, gradient))
    }

    fn gather(
        &self,
        width: usize,
        table: View<'_, Buf<F>>,
        tokens: &Vec<u32>,
        out: ViewMut<'_, Buf<F>>,
    ) -> Result<()> {
        let (table, out) = (read("gather", table)?, write("gather", out)?);
        expect_len("gather", "out", out.len(), width * tokens.len())?;
        operands::tokens("gather", tokens, table.len() / width.max(1))?;
        let _meter = self.meter.start(Work::Other, 0, (2 * out.len()) * F::BYTES);
        embed::gather(&self.pool, width, table, tokens, out);
        Ok(())
    }

    fn alloc_sums(&self, kind: SumKind, len: usize) -> Result<CpuSums<F>> {
        CpuSums::new(kind, len, &self.tally)
    }

    fn sums_bytes<'a>(&self, sums: &'a CpuSums<F>, range: Range<usize>) -> Result<Cow<'a, [u8]>> {
        operands::sums("sums_bytes", sums, &range)?;
        Ok(Cow::Borrowed(match sums {
            CpuSums::Fixed { values, .. } => bytemuck::cast_slice(&values[range]),
            CpuSums::Float(values) => bytemuck::cast_slice(&values[range]),
        }))
    }

    fn add_sums_bytes(&self, sums: &mut CpuSums<F>, range: Range<usize>, bytes: &[u8]) -> Result<()> {
        operands::sums("add_sums_bytes", sums, &range)?;
        expect_len("add_sums_bytes", "bytes", bytes.len(), range.len() * sums.width())?;
        sums::add_bytes(&self.pool, sums, range.start, bytes);
        Ok(())
    }

    fn accumulate(&self, sums: &mut CpuSums<F>, at: usize, gradient: View<'_, Buf<F>>) -> Result<()> {
        let gradient = read("accumulate", gradient)?;
        operands::sums("accumulate", sums, &(at..at + gradient.len()))?;
        let _meter = self.adding(sums, gradient.len());
        sums::accumulate(&self.pool, sums, at, gradient);
        Ok(())
    }

    fn accumulate_product(
        &self,
        sums: &mut CpuSums<F>,
        at: usize,
        shape: Product,
        a: View<'_, Buf<F>>,
        b: View<'_, Buf<F>>,
        scratch: ViewMut<'_, Buf<F>>,
    ) -> Result<()> {
        let op = "accumulate_product";
        let (a, b, scratch) = (read(op, a)?, read(op, b)?, write(op, scratch)?);
        let len = shape.m * shape.n;
        operands::sums(op, sums, &(at..at + len))?;
        if scratch.len() < len {
            return Err(ComputeError::Shape {
                op,
                what: "scratch",
                have: scratch.len(),
                want: len,
            });
        }
        operands::product(&shape, len, a.len(), b.len())?;
        match sums {
            CpuSums::Float(values) => {
                let shape = Product {
                    accumulate: true,
                    ..shape
                };
                let _meter = self.multiplying(&shape);
                matmul::product(&self.pool, shape, &mut values[at..at + len], a, b);
            }
            CpuSums::Fixed { .. } => {
                let shape = Product {
                    accumulate: false,
                    ..shape
                };
                let meter = self.multiplying(&shape);
                matmul::product(&self.pool, shape, &mut scratch[..len], a, b);
                drop(meter);
                let _meter = self.adding(sums, len);
                sums::accumulate(&self.pool, sums, at, &scratch[..len]);
            }
        }
        Ok(())
    }

    fn accumulate_rows(
        &self,
        sums: &mut CpuSums<F>,
        width: usize,
        tokens: &Vec<u32>,
        gradient: View<'_, Buf<F>>,
    ) -> Result<()> {
        let gradient = read("accumulate_rows", gradient)?;
        expect_len(
            "accumulate_rows",
            "gradient",
            gradient.len(),
            tokens.len() * width,
        )?;
        operands::tokens("accumulate_rows", tokens, sums.len() / width.max(1))?;
        let _meter = self.adding(sums, gradient.len());
        let (rows, groups) = embed::groups(tokens);
        let mut total = vec![F::ZERO; width];
        for (token, first, count) in groups {
            embed::sum_rows(width, &rows[first..first + count], gradient, &mut total);
            sums::accumulate(&self.pool, sums, token as usize * width, &total);
        }
        Ok(())
    }

    fn clear(&self, sums: &mut CpuSums<F>, range: Range<usize>) -> Result<()> {
        operands::sums("clear", sums, &range)?;
        match sums {
            CpuSums::Fixed { values, .. } => values[range].fill(0),
            CpuSums::Float(values) => values[range].fill(F::ZERO),
        }
        Ok(())
    }

    fn block_squares(
        &self,
        sums: &CpuSums<F>,
        range: Range<usize>,
        block: usize,
        tokens: u64,
    ) -> Result<Vec<f64>> {
        operands::blocks("block_squares", sums, &range, block)?;
        let _meter = self.meter.start(Work::Other, 0, range.len() * sums.width());
        Ok(sums::block_squares(&self.pool, sums, range, block, tokens))
    }

    fn mean(&self, sums: &CpuSums<F>, range: Range<usize>, tokens: u64) -> Result<Vec<F>> {
        operands::sums("mean", sums, &range)?;
        Ok(sums::mean(sums, range, tokens))
    }

    fn mean_and_squares(
        &self,
        sums: &CpuSums<F>,
        range: Range<usize>,
        block: usize,
        tokens: u64,
        out: &mut [F],
    ) -> Result<Vec<f64>> {
        let op = "mean_and_squares";
        operands::blocks(op, sums, &range, block)?;
        expect_len(op, "out", out.len(), range.len())?;
        let bytes = range.len() * (sums.width() + F::BYTES);
        let _meter = self.meter.start(Work::Other, 0, bytes);
        Ok(sums::mean_and_squares(
            &self.pool,
            sums,
            range.start,
            block,
            tokens,
            out,
        ))
    }

    fn adamw(
        &self,
        target: AdamTarget<'_, Buf<F>>,
        source: AdamSource<'_, Buf<F>>,
        sums: &mut CpuSums<F>,
        at: Range<usize>,
        step: &AdamStep,
        parts: &[AdamPart],
        hashing: Option<Hashing<'_>>,
    ) -> Result<bool> {
        operands::sums("adamw", sums, &at)?;
        operands::adam_parts(parts, hashing.as_ref(), at.len())?;
        let operands = operands::adam_all(target, source, at.len())?;
        let (bytes, hashed) = (at.len() * (6 * F::BYTES + 2 * sums.width()), hashing.is_some());
        let _meter = self.meter.start(Work::Other, 0, bytes);
        adamw::Step::new(step, parts).run(&self.pool, operands, sums, at.start, hashing);
        Ok(hashed)
    }

    fn adamw_with(
        &self,
        target: AdamTarget<'_, Buf<F>>,
        source: AdamSource<'_, Buf<F>>,
        gradient: &[F],
        step: &AdamStep,
        parts: &[AdamPart],
    ) -> Result<()> {
        let len = gradient.len();
        operands::adam_parts(parts, None, len)?;
        let step = adamw::Step::new(step, parts);
        if target.weights.range.is_empty() {
            let target = [target.exp_avg, target.exp_avg_sq];
            let operands = operands::adam_moments(target, [source.exp_avg, source.exp_avg_sq], len)?;
            let _meter = self.meter.start(Work::Other, 0, 5 * len * F::BYTES);
            step.run_moments(&self.pool, operands, gradient);
            return Ok(());
        }
        let operands = operands::adam_all(target, source, len)?;
        let _meter = self.meter.start(Work::Other, 0, 7 * len * F::BYTES);
        step.run_with(&self.pool, operands, gradient);
        Ok(())
    }

    fn freeze(&self, buffer: &Buf<F>, range: Range<usize>) -> Result<CpuFrozen<F>> {
        read("freeze", part(buffer, range.clone()))?;
        Ok(CpuFrozen::new(buffer, range))
    }

    fn reserve_spares(&self, lens: &[usize]) -> Result<()> {
        self.spares.reserve(lens)
    }

    fn thaw<const N: usize>(
        &self,
        buffers: [&mut Buf<F>; N],
        patience: Duration,
    ) -> Result<[Option<Buf<F>>; N]> {
        held::thaw(&self.spares, buffers, patience)
    }
}
