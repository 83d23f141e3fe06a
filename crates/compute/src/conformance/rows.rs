//! Products, norms, SwiGLU, loss, embedding.

use super::{Check, all, reference, upload};
use crate::{Device, Product, Result, SumKind, part_mut, whole_mut};

pub fn products<D: Device>(check: &mut Check<'_, D>) -> Result<()> {
    let device = check.device;
    for kind in 0..8 {
        let r = &mut check.random;
        let (m, n, k) = (r.size(1..=90), r.size(1..=90), r.size(1..=300));
        let shape = Product {
            m,
            n,
            k,
            transpose_a: kind & 1 > 0,
            transpose_b: kind & 2 > 0,
            accumulate: kind & 4 > 0,
        };
        let (a, b, mut c) = (r.values(m * k), r.values(k * n), r.values(m * n));
        let (da, db, mut dc) = (upload(device, &a)?, upload(device, &b)?, upload(device, &c)?);
        device.product(
            shape,
            whole_mut(&mut dc, m * n),
            all(device, &da),
            all(device, &db),
        )?;
        reference::product(shape, &a, &b, &mut c);
        check.compare(&format!("{shape:?}"), &dc, &c)?;
        let mut sum = upload(device, &a)?;
        device.add(whole_mut(&mut sum, m * k), all(device, &da))?;
        check.compare("add", &sum, &a.iter().map(|v| 2.0 * v).collect::<Vec<_>>())?;
    }
    Ok(())
}

pub fn norms<D: Device>(check: &mut Check<'_, D>) -> Result<()> {
    let (device, r) = (check.device, &mut check.random);
    let (rows, width) = (r.size(1..=150), r.size(1..=70));
    let len = rows * width;
    let (x, delta, weight) = (r.values(len), r.values(len), r.values(width));
    let (dy, dx) = (r.values(len), r.values(len));
    let (bx, bdelta, bweight) = (
        upload(device, &x)?,
        upload(device, &delta)?,
        upload(device, &weight)?,
    );
    let (mut sum, mut y, mut rstd) = (device.alloc(len)?, device.alloc(len)?, device.alloc_wide(rows)?);
    let pair = Some((all(device, &bdelta), whole_mut(&mut sum, len)));
    let (ym, rm) = (whole_mut(&mut y, len), whole_mut(&mut rstd, rows));
    device.norm(all(device, &bx), pair, all(device, &bweight), 1e-5, ym, rm)?;
    let total: Vec<f64> = x.iter().zip(&delta).map(|(a, b)| a + b).collect();
    let (want_y, want_rstd) = reference::norm(&total, &weight, 1e-5);
    check.compare("norm sum", &sum, &total)?;
    check.compare("norm y", &y, &want_y)?;
    check.compare("norm rstd", &rstd, &want_rstd)?;

    let (ym, rm) = (whole_mut(&mut y, len), whole_mut(&mut rstd, rows));
    device.norm(all(device, &bx), None, all(device, &bweight), 1e-5, ym, rm)?;
    let (want_y, want_rstd) = reference::norm(&x, &weight, 1e-5);
    check.compare("norm y without delta", &y, &want_y)?;
    let (mut bdy, mut bdx, mut dweight) = (
        upload(device, &dy)?,
        upload(device, &dx)?,
        device.alloc_wide(width)?,
    );
    device.norm_backward(
        all(device, &bx),
        all(device, &bweight),
        all(device, &rstd),
        whole_mut(&mut bdy, len),
        whole_mut(&mut bdx, len),
        whole_mut(&mut dweight, width),
    )?;
    let (want_dx, want_dweight) = reference::norm_backward(&x, &weight, &want_rstd, &dy);
    let want_dx: Vec<f64> = want_dx.iter().zip(&dx).map(|(a, b)| a + b).collect();
    check.compare("norm dx", &bdx, &want_dx)?;
    check.compare("norm dweight", &dweight, &want_dweight)?;
    check.compare("norm y again", &bdy, &want_y)
}

pub fn swiglu<D: Device>(check: &mut Check<'_, D>) -> Result<()> {
    let (device, r) = (check.device, &mut check.random);
    let (rows, width) = (r.size(1..=40), r.size(1..=70));
    let gate_up: Vec<f64> = r.values(2 * rows * width).iter().map(|v| v * 9.0).collect();
    let dy = r.values(rows * width);
    let at = |i: usize| {
        (
            gate_up[i / width * 2 * width + i % width],
            gate_up[(i / width * 2 + 1) * width + i % width],
        )
    };
    let want_y: Vec<f64> = (0..rows * width)
        .map(|i| reference::silu(at(i).0) * at(i).1)
        .collect();
    let (source, mut y) = (upload(device, &gate_up)?, device.alloc(rows * width)?);
    device.swiglu(width, all(device, &source), whole_mut(&mut y, rows * width))?;
    check.compare("swiglu", &y, &want_y)?;
    let (mut bdy, mut d) = (upload(device, &dy)?, device.alloc(2 * rows * width)?);
    let target = whole_mut(&mut d, 2 * rows * width);
    device.swiglu_backward(
        width,
        all(device, &source),
        whole_mut(&mut bdy, rows * width),
        target,
    )?;
    let mut want = vec![0.0; 2 * rows * width];
    for (i, dy) in dy.iter().enumerate() {
        let (gate, up) = at(i);
        want[i / width * 2 * width + i % width] = dy * up * reference::silu_slope(gate);
        want[(i / width * 2 + 1) * width + i % width] = dy * reference::silu(gate);
    }
    check.compare("swiglu gradient", &d, &want)?;
    check.compare("swiglu y again", &bdy, &want_y)
}

pub fn loss<D: Device>(check: &mut Check<'_, D>) -> Result<()> {
    let (device, r) = (check.device, &mut check.random);
    let (rows, width) = (r.size(1..=40), r.size(2..=90));
    let logits: Vec<f64> = r.values(rows * width).iter().map(|v| v * 6.0).collect();
    let targets: Vec<u32> = (0..rows).map(|_| r.size(0..=width - 1) as u32).collect();
    let mut indices = device.alloc_indices()?;
    device.write_indices(&mut indices, &targets)?;
    let mut buffer = upload(device, &logits)?;
    let (want, gradient) = reference::cross_entropy(&logits, &targets);
    let plain = device.cross_entropy(whole_mut(&mut buffer, rows * width), &indices, 0..rows, false)?;
    buffer = upload(device, &logits)?;
    let both = device.cross_entropy(whole_mut(&mut buffer, rows * width), &indices, 0..rows, true)?;
    check.bits.extend_from_slice(&both.to_ne_bytes());
    check.compare_values("loss", &[plain, both], &[want, want]);
    check.compare("loss gradient", &buffer, &gradient)?;
    // A part of the rows against the same part of the targets.
    let half = rows / 2;
    buffer = upload(device, &logits)?;
    let tail = device.cross_entropy(
        part_mut(&mut buffer, half * width..rows * width),
        &indices,
        half..rows,
        false,
    )?;
    let (want, _) = reference::cross_entropy(&logits[half * width..], &targets[half..]);
    check.compare_values("loss of a part", &[tail], &[want]);
    if device
        .cross_entropy(whole_mut(&mut buffer, rows), &indices, 0..rows, false)
        .is_ok()
        && targets.iter().any(|&t| t > 0)
    {
        check
            .wrong
            .push("a target outside the vocabulary was taken".to_owned());
    }
    Ok(())
}

pub fn embedding<D: Device>(check: &mut Check<'_, D>) -> Result<()> {
    let (device, r) = (check.device, &mut check.random);
    let (rows, width, vocab) = (r.size(1..=150), r.size(1..=40), r.size(1..=30));
    let tokens: Vec<u32> = (0..rows).map(|_| r.size(0..=vocab - 1) as u32).collect();
    let (table, gradient) = (r.values(vocab * width), r.values(rows * width));
    let mut indices = device.alloc_indices()?;
    device.write_indices(&mut indices, &tokens)?;
    let (btable, bgradient, mut out) = (
        upload(device, &table)?,
        upload(device, &gradient)?,
        device.alloc(rows * width)?,
    );
    device.gather(
        width,
        all(device, &btable),
        &indices,
        whole_mut(&mut out, rows * width),
    )?;
    let at = |i: usize| tokens[i / width] as usize * width + i % width;
    check.compare(
        "gather",
        &out,
        &(0..rows * width).map(|i| table[at(i)]).collect::<Vec<_>>(),
    )?;
    let mut want = vec![0.0; vocab * width];
    for (i, g) in gradient.iter().enumerate() {
        want[at(i)] += g;
    }
    for kind in [SumKind::Fixed { shift: 40 }, SumKind::Float] {
        let mut sums = device.alloc_sums(kind, vocab * width)?;
        device.accumulate_rows(&mut sums, width, &indices, all(device, &bgradient))?;
        check
            .bits
            .extend_from_slice(&device.sums_bytes(&sums, 0..vocab * width)?);
        let have: Vec<f64> = device
            .mean(&sums, 0..vocab * width, 1)?
            .iter()
            .map(|v| crate::Float::f64(*v))
            .collect();
        check.compare_values("embedding gradient", &have, &want);
    }
    Ok(())
}
