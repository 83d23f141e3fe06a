//! What a stage asks of a device.
//!
//! All matrices are row-major. A *row* of activations is one token of one sequence; rows of a sequence are adjacent.
//! A device may run operations later, in the order it was given them (a CUDA stream does); [`Device::read`],
//! [`Device::bytes`], [`Device::sums_bytes`], [`Device::cross_entropy`], [`Device::block_squares`] wait for their operand.
//!
//! Deliberately absent: choice of precision inside an operation (fixed by the device) and any state between operations.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use crate::{AdamPart, AdamSource, AdamStep, AdamTarget, Float, Frozen, Hashing, Result};

/// The accumulator value that says "not finite". It stays, whatever is added.
pub const POISON: i64 = i64::MIN;

/// A part of a buffer to read.
#[derive(Debug)]
pub struct View<'a, B> {
    /// The whole buffer.
    pub buffer: &'a B,
    /// Which elements.
    pub range: Range<usize>,
}

impl<B> Clone for View<'_, B> {
    fn clone(&self) -> Self {
        Self {
            buffer: self.buffer,
            range: self.range.clone(),
        }
    }
}

/// A part of a buffer to write.
#[derive(Debug)]
pub struct ViewMut<'a, B> {
    /// The whole buffer.
    pub buffer: &'a mut B,
    /// Which elements.
    pub range: Range<usize>,
}

/// Elements `range` of `buffer`.
pub fn part<B>(buffer: &B, range: Range<usize>) -> View<'_, B> {
    View { buffer, range }
}

/// Elements `range` of `buffer`, to be written.
pub fn part_mut<B>(buffer: &mut B, range: Range<usize>) -> ViewMut<'_, B> {
    ViewMut { buffer, range }
}

/// The first `len` elements of `buffer`.
pub fn whole<B>(buffer: &B, len: usize) -> View<'_, B> {
    part(buffer, 0..len)
}

/// The first `len` elements of `buffer`, to be written.
pub fn whole_mut<B>(buffer: &mut B, len: usize) -> ViewMut<'_, B> {
    part_mut(buffer, 0..len)
}

/// `C[m,n] = op(A) op(B)`, where `op(A)` is `[m,k]` and `op(B)` is `[k,n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Product {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// The summed dimension.
    pub k: usize,
    /// A is stored as `[k,m]`.
    pub transpose_a: bool,
    /// B is stored as `[n,k]`.
    pub transpose_b: bool,
    /// Add to C instead of replacing it.
    pub accumulate: bool,
}

/// Shape of causal grouped-query attention over a buffer of queries, keys, values: `[rows, (heads + 2 kv_heads) * head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Sequences; rows = sequences * seq_len.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`, head h uses h * kv_heads / heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores, usually 1/sqrt(head_dim).
    pub scale: f64,
}

impl AttentionShape {
    /// Number of tokens.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.sequences * self.seq_len
    }

    /// Elements between two rows of the fused buffer.
    #[must_use]
    pub fn stride(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of the output: all query heads.
    #[must_use]
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// What a norm adds to its input first, and where the sum goes.
pub type Residual<'a, B> = (View<'a, B>, ViewMut<'a, B>);

/// See [`Device::element_bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementBytes {
    /// Weights, a rounded copy included.
    pub weights: usize,
    /// Activations and work space.
    pub activations: usize,
    /// Moments, and numbers that aren't rounded.
    pub wide: usize,
}

/// How gradients are summed over micro-batches and lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SumKind {
    /// `i64` in units of 2^-shift: the sum doesn't depend on the order.
    Fixed {
        /// Fractional bits, 0 to 60.
        shift: u32,
    },
    /// The device's float type, in the order of the calls.
    Float,
}

/// The operations a stage needs. See the module for what holds for all of them.
///
/// # Errors
/// Every operation checks its operands and returns [`crate::ComputeError`] naming the one at fault.
#[allow(clippy::missing_errors_doc, clippy::too_many_arguments)]
pub trait Device: Send + Sync + Sized + 'static {
    /// Element type of weights, activations and moments.
    type Float: Float;
    /// Memory holding [`Self::Float`]s.
    type Buffer: Send + Sync;
    /// Memory holding token ids.
    type Indices: Send + Sync;
    /// Gradient accumulators.
    type Sums: Send + Sync;
    /// What a part of a buffer held when it was frozen, see [`Frozen`].
    type Frozen: Frozen;

    /// A zeroed buffer.
    fn alloc(&self, len: usize) -> Result<Self::Buffer>;
    /// A zeroed buffer for weights or moments, which may lie in memory of its own kind (one that outlives a process).
    fn alloc_state(&self, len: usize) -> Result<Self::Buffer> {
        self.alloc(len)
    }
    /// As [`Device::alloc_state`], for weights: what products, norms and [`Device::gather`] read.
    fn alloc_weights(&self, len: usize) -> Result<Self::Buffer> {
        self.alloc_state(len)
    }
    /// A zeroed buffer for numbers that keep [`Self::Float`]'s precision where activations are rounded to less:
    /// `rstd`, `lse`, tables of the rotation, gradients of weights.
    fn alloc_wide(&self, len: usize) -> Result<Self::Buffer> {
        self.alloc(len)
    }
    /// Bytes of an element of a buffer for weights, of one for activations and of a wide one.
    fn element_bytes(&self) -> ElementBytes {
        let all = size_of::<Self::Float>();
        ElementBytes {
            weights: all,
            activations: all,
            wide: all,
        }
    }
    /// About how many logits are worked on at once. Fixed for a device, because the order of sums follows it.
    fn logits_at_once(&self) -> usize {
        crate::sizes::CPU.logits_at_once
    }
    /// Number of elements.
    fn len(&self, buffer: &Self::Buffer) -> usize;
    /// The elements, on the host.
    fn read<'a>(&self, src: View<'a, Self::Buffer>) -> Result<Cow<'a, [Self::Float]>>;
    /// The elements' bytes in native order, on the host.
    fn bytes<'a>(&self, src: View<'a, Self::Buffer>) -> Result<Cow<'a, [u8]>>;
    /// Overwrites elements.
    fn write(&self, dst: ViewMut<'_, Self::Buffer>, src: &[Self::Float]) -> Result<()>;
    /// Overwrites elements with bytes in native order (of any alignment).
    fn write_bytes(&self, dst: ViewMut<'_, Self::Buffer>, src: &[u8]) -> Result<()>;
    /// Copies token ids to the device, reusing `into`.
    fn write_indices(&self, into: &mut Self::Indices, src: &[u32]) -> Result<()>;
    /// An empty list of token ids.
    fn alloc_indices(&self) -> Result<Self::Indices>;

    /// Sets elements to 0.
    fn fill_zero(&self, dst: ViewMut<'_, Self::Buffer>) -> Result<()>;
    /// `dst += src`.
    fn add(&self, dst: ViewMut<'_, Self::Buffer>, src: View<'_, Self::Buffer>) -> Result<()>;
    /// A matrix product, see [`Product`].
    fn product(
        &self,
        shape: Product,
        c: ViewMut<'_, Self::Buffer>,
        a: View<'_, Self::Buffer>,
        b: View<'_, Self::Buffer>,
    ) -> Result<()>;

    /// RMSNorm (Zhang & Sennrich 2019) with the residual addition in front: `sum = x + delta` (skipped without
    /// `delta`, then `sum` isn't written), `rstd = 1/sqrt(mean(sum²) + eps)` per row, `y = sum * rstd * weight`.
    /// Width of a row = length of `weight`.
    fn norm(
        &self,
        x: View<'_, Self::Buffer>,
        delta: Option<Residual<'_, Self::Buffer>>,
        weight: View<'_, Self::Buffer>,
        eps: f64,
        y: ViewMut<'_, Self::Buffer>,
        rstd: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Backward of [`Device::norm`]: `dx += gradient of x`, `dweight = gradient of weight`, and `y` (recomputed)
    /// where asked for. `dy` may be overwritten by `y`: it is read and written in the same pass.
    fn norm_backward(
        &self,
        x: View<'_, Self::Buffer>,
        weight: View<'_, Self::Buffer>,
        rstd: View<'_, Self::Buffer>,
        dy_then_y: ViewMut<'_, Self::Buffer>,
        dx: ViewMut<'_, Self::Buffer>,
        dweight: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;

    /// Rotary embedding (Su et al. 2021, halves paired as in Hugging Face's LLaMA) of queries and keys in place.
    /// `cos` and `sin` are `[>= seq_len, head_dim/2]`; `inverse` turns back (which is the backward pass).
    fn rope(
        &self,
        shape: AttentionShape,
        qkv: ViewMut<'_, Self::Buffer>,
        cos: View<'_, Self::Buffer>,
        sin: View<'_, Self::Buffer>,
        inverse: bool,
    ) -> Result<()>;
    /// Causal grouped-query attention. Writes `out[rows, heads*head_dim]` and the logarithm of each row's sum of
    /// exponentials, `lse[sequences, heads, seq_len]`.
    fn attention(
        &self,
        shape: AttentionShape,
        qkv: View<'_, Self::Buffer>,
        out: ViewMut<'_, Self::Buffer>,
        lse: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Backward of [`Device::attention`]: writes all of `dqkv`; probabilities anew (Dao et al. 2022, algorithm 4).
    fn attention_backward(
        &self,
        shape: AttentionShape,
        qkv: View<'_, Self::Buffer>,
        out: View<'_, Self::Buffer>,
        lse: View<'_, Self::Buffer>,
        dout: View<'_, Self::Buffer>,
        dqkv: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// SwiGLU (Shazeer 2020): `y[r,j] = silu(gate) * up` with `gate_up[r] = gate[width] ++ up[width]`.
    fn swiglu(
        &self,
        width: usize,
        gate_up: View<'_, Self::Buffer>,
        y: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Backward of [`Device::swiglu`]: writes `dgate_up`, and overwrites `dy` with the recomputed `y`.
    fn swiglu_backward(
        &self,
        width: usize,
        gate_up: View<'_, Self::Buffer>,
        dy_then_y: ViewMut<'_, Self::Buffer>,
        dgate_up: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;

    /// Sum over rows of `-log softmax(logits)[target]`, summed in `f64` in row order. With `gradient`, `logits` is
    /// overwritten by the gradient of that sum. `targets` gives `rows` of the index list; a row is `logits / rows` wide.
    fn cross_entropy(
        &self,
        logits: ViewMut<'_, Self::Buffer>,
        targets: &Self::Indices,
        rows: Range<usize>,
        gradient: bool,
    ) -> Result<f64>;
    /// `out[r] = table[tokens[r]]`, rows of `width`.
    fn gather(
        &self,
        width: usize,
        table: View<'_, Self::Buffer>,
        tokens: &Self::Indices,
        out: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;

    /// Zeroed accumulators.
    fn alloc_sums(&self, kind: SumKind, len: usize) -> Result<Self::Sums>;
    /// Their bytes in native order, on the host: `i64`, or floats for [`SumKind::Float`].
    fn sums_bytes<'a>(&self, sums: &'a Self::Sums, range: Range<usize>) -> Result<Cow<'a, [u8]>>;
    /// Adds another rank's [`Device::sums_bytes`] of the same range.
    fn add_sums_bytes(&self, sums: &mut Self::Sums, range: Range<usize>, bytes: &[u8]) -> Result<()>;
    /// Adds a micro-batch's gradient at `at`.
    fn accumulate(&self, sums: &mut Self::Sums, at: usize, gradient: View<'_, Self::Buffer>) -> Result<()>;
    /// Adds a product of two matrices at `at` (`shape.accumulate` is ignored). `scratch` holds at least `m*n` elements.
    fn accumulate_product(
        &self,
        sums: &mut Self::Sums,
        at: usize,
        shape: Product,
        a: View<'_, Self::Buffer>,
        b: View<'_, Self::Buffer>,
        scratch: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Backward of [`Device::gather`]: adds each row of `gradient` to the accumulators of its token's row. Rows of
    /// one token are first summed in row order.
    fn accumulate_rows(
        &self,
        sums: &mut Self::Sums,
        width: usize,
        tokens: &Self::Indices,
        gradient: View<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Zeroes accumulators.
    fn clear(&self, sums: &mut Self::Sums, range: Range<usize>) -> Result<()>;
    /// The sum of squares (`f64`) of the mean gradient over each block of `block` elements of `range`, whose start is
    /// a multiple of `block`. NaN for a block with a poisoned element.
    fn block_squares(
        &self,
        sums: &Self::Sums,
        range: Range<usize>,
        block: usize,
        tokens: u64,
    ) -> Result<Vec<f64>>;
    /// The mean gradient, rounded to the device's float.
    fn mean(&self, sums: &Self::Sums, range: Range<usize>, tokens: u64) -> Result<Vec<Self::Float>>;
    /// [`Device::mean`] into `out`, as long as `range`, and [`Device::block_squares`] of the same, in one pass if it can.
    fn mean_and_squares(
        &self,
        sums: &Self::Sums,
        range: Range<usize>,
        block: usize,
        tokens: u64,
        out: &mut [Self::Float],
    ) -> Result<Vec<f64>> {
        crate::operands::expect_len("mean_and_squares", "out", out.len(), range.len())?;
        out.copy_from_slice(&self.mean(sums, range.clone(), tokens)?);
        self.block_squares(sums, range, block, tokens)
    }
    /// AdamW (Loshchilov & Hutter 2019) with the mean gradient of accumulators `at`, which are zeroed. Starts from
    /// `source`, and gives the same bits whatever of that is the target itself. `parts` cover all elements. Returns
    /// whether `hashing` was done: a device may leave that to whoever reads the bytes.
    fn adamw(
        &self,
        target: AdamTarget<'_, Self::Buffer>,
        source: AdamSource<'_, Self::Buffer>,
        sums: &mut Self::Sums,
        at: Range<usize>,
        step: &AdamStep,
        parts: &[AdamPart],
        hashing: Option<Hashing<'_>>,
    ) -> Result<bool>;
    /// [`Device::adamw`] with another rank's [`Device::mean`] (`step.tokens` is ignored). A device may lose the sign
    /// of a zero. With an empty range of weights the moments alone, which don't depend on them.
    fn adamw_with(
        &self,
        target: AdamTarget<'_, Self::Buffer>,
        source: AdamSource<'_, Self::Buffer>,
        gradient: &[Self::Float],
        step: &AdamStep,
        parts: &[AdamPart],
    ) -> Result<()> {
        crate::with_floats::adamw(self, (target, source), gradient, step, parts)
    }

    /// Holds on to what the elements are now, whatever is written to the buffer later. Copies nothing on the caller's
    /// time. Until the handle is dropped, writing to the buffer fails with [`crate::ComputeError::Frozen`] or leaves
    /// the handle's bytes alone.
    fn freeze(&self, buffer: &Self::Buffer, range: Range<usize>) -> Result<Self::Frozen>;
    /// Adds buffers of these lengths (elements) to those that [`Device::thaw`] may use. This is the only call that
    /// allocates for it, and it touches every page.
    fn reserve_spares(&self, lens: &[usize]) -> Result<()>;
    /// Makes all of `buffers` writable, or none. A buffer that nobody holds frozen stays as it is (None). One that is
    /// frozen is replaced by a spare of its length, whose content is undefined; the buffer with the frozen content
    /// comes back, to read from and to drop soon. Waits while a buffer is frozen and no spare is free; after
    /// `patience` that is [`crate::ComputeError::StillFrozen`].
    fn thaw<const N: usize>(
        &self,
        buffers: [&mut Self::Buffer; N],
        patience: Duration,
    ) -> Result<[Option<Self::Buffer>; N]>;
}
