//! Checks of operands that don't depend on the device.

use std::ops::Range;

use crate::{AdamPart, AttentionShape, ComputeError, Product, Result};

/// A range outside a buffer of `len` elements is refused.
pub fn inside(op: &'static str, range: &Range<usize>, len: usize) -> Result<()> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    Err(ComputeError::Range {
        op,
        start: range.start,
        end: range.end,
        len,
    })
}

/// Refuses an operand of the wrong length.
pub fn expect_len(op: &'static str, what: &'static str, have: usize, want: usize) -> Result<()> {
    if have == want {
        Ok(())
    } else {
        Err(ComputeError::Shape { op, what, have, want })
    }
}

/// Operands that aren't as long as the shape says are refused.
pub fn product(shape: &Product, c: usize, a: usize, b: usize) -> Result<()> {
    let Product { m, n, k, .. } = *shape;
    expect_len("product", "c", c, m * n)?;
    expect_len("product", "a", a, m * k)?;
    expect_len("product", "b", b, k * n)
}

/// Tables of the rotation that are too short are refused.
pub fn rope(shape: &AttentionShape, cos: usize, sin: usize) -> Result<()> {
    let want = shape.seq_len * (shape.head_dim / 2);
    for (what, have) in [("cos", cos), ("sin", sin)] {
        if have < want {
            return Err(ComputeError::Shape {
                op: "rope",
                what,
                have,
                want,
            });
        }
    }
    Ok(())
}

/// Shapes that attention can't have are refused.
pub fn attention(op: &'static str, shape: &AttentionShape) -> Result<()> {
    let fits = shape.kv_heads > 0
        && shape.heads.is_multiple_of(shape.kv_heads)
        && shape.head_dim > 0
        && shape.seq_len > 0;
    if fits {
        Ok(())
    } else {
        Err(ComputeError::Shape {
            op,
            what: "heads",
            have: shape.heads,
            want: shape.kv_heads,
        })
    }
}

/// Indices outside a table of `len` rows are refused.
pub fn tokens(op: &'static str, tokens: &[u32], len: usize) -> Result<()> {
    match tokens.iter().position(|&t| t as usize >= len) {
        Some(at) => Err(ComputeError::Index {
            op,
            at,
            index: tokens[at],
            len,
        }),
        None => Ok(()),
    }
}

/// Parts of an AdamW step that don't cover `len` elements in order are refused.
pub fn adam_cover(parts: &[AdamPart], len: usize) -> Result<()> {
    let ordered = parts.windows(2).all(|pair| pair[0].end <= pair[1].end);
    let end = parts.last().map_or(0, |part| part.end);
    expect_len("adamw", "parts", if ordered { end } else { 0 }, len)
}
