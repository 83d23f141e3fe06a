//! Rotation and attention.

use super::{Check, all, reference, upload, upload_wide};
use crate::{AttentionShape, Device, Result, whole_mut};

fn shape<D: Device>(check: &mut Check<'_, D>) -> AttentionShape {
    let r = &mut check.random;
    let kv_heads = r.size(1..=3);
    let head_dim = 2 * r.size(1..=21);
    AttentionShape {
        sequences: r.size(1..=3),
        seq_len: r.size(1..=75),
        heads: kv_heads * r.size(1..=3),
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f64).sqrt(),
    }
}

pub fn rope<D: Device>(check: &mut Check<'_, D>) -> Result<()> {
    let (device, shape) = (check.device, shape(check));
    let len = shape.rows() * shape.stride();
    let table = shape.seq_len * shape.head_dim / 2;
    let (mut qkv, cos, sin) = (
        check.random.values(len),
        check.random.values(table),
        check.random.values(table),
    );
    let (mut buffer, c, s) = (
        upload(device, &qkv)?,
        upload_wide(device, &cos)?,
        upload_wide(device, &sin)?,
    );
    for inverse in [false, true] {
        device.rope(
            shape,
            whole_mut(&mut buffer, len),
            all(device, &c),
            all(device, &s),
            inverse,
        )?;
        reference::rope(shape, &mut qkv, &cos, &sin, inverse);
        check.compare(&format!("rope inverse {inverse} {shape:?}"), &buffer, &qkv)?;
    }
    Ok(())
}

pub fn attention<D: Device>(check: &mut Check<'_, D>) -> Result<()> {
    let (device, shape) = (check.device, shape(check));
    let (rows, len) = (shape.rows(), shape.rows() * shape.stride());
    let qkv: Vec<f64> = check.random.values(len).iter().map(|v| v * 2.0).collect();
    let dout = check.random.values(rows * shape.width());
    let (source, gradient) = (upload(device, &qkv)?, upload(device, &dout)?);
    let (mut out, mut lse) = (
        device.alloc(rows * shape.width())?,
        device.alloc_wide(rows * shape.heads)?,
    );
    let (o, l) = (
        whole_mut(&mut out, rows * shape.width()),
        whole_mut(&mut lse, rows * shape.heads),
    );
    device.attention(shape, all(device, &source), o, l)?;
    let (want_out, want_lse) = reference::attention(shape, &qkv);
    check.compare(&format!("attention {shape:?}"), &out, &want_out)?;
    check.compare("attention lse", &lse, &want_lse)?;
    let mut d = device.alloc(len)?;
    let (o, l) = (all(device, &out), all(device, &lse));
    device.attention_backward(
        shape,
        all(device, &source),
        o,
        l,
        all(device, &gradient),
        whole_mut(&mut d, len),
    )?;
    check.compare(
        &format!("attention gradient {shape:?}"),
        &d,
        &reference::attention_backward(shape, &qkv, &dout),
    )
}
