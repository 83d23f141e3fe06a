//! Numbers in safetensors files to float32 and back.
//!
//! In: little-endian bytes of F32, BF16 or F16. Out: float32 (both 16-bit types widen exactly), and float32 as bytes.

use std::io::Write;

use half::{bf16, f16};
use safetensors::Dtype;

/// Whether [`widen`] takes this type.
pub(crate) fn is_readable(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16)
}

/// Fills `out` from `bytes` of a type that [`is_readable`]; lengths match.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    let pairs = |bytes: &[u8]| [bytes[0], bytes[1]];
    match dtype {
        Dtype::BF16 => fill(
            out,
            bytes
                .chunks_exact(2)
                .map(|b| bf16::from_le_bytes(pairs(b)).to_f32()),
        ),
        Dtype::F16 => fill(
            out,
            bytes
                .chunks_exact(2)
                .map(|b| f16::from_le_bytes(pairs(b)).to_f32()),
        ),
        _ => fill(
            out,
            bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        ),
    }
}

fn fill(out: &mut [f32], values: impl Iterator<Item = f32>) {
    out.iter_mut().zip(values).for_each(|(to, value)| *to = value);
}

/// Writes float32 values as little-endian bytes, whatever the machine's own order.
pub(crate) fn write_f32(values: &[f32], out: &mut impl Write) -> std::io::Result<()> {
    let mut buffer = [0u8; 1 << 14];
    for part in values.chunks(buffer.len() / 4) {
        buffer
            .chunks_exact_mut(4)
            .zip(part)
            .for_each(|(to, value)| to.copy_from_slice(&value.to_le_bytes()));
        out.write_all(&buffer[..part.len() * 4])?;
    }
    Ok(())
}
