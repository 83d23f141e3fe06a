//! Accumulators and the optimizer.

use super::{Check, all, filled, reference, upload};
use crate::{
    AdamPart, AdamSource, AdamStep, AdamTarget, Device, Float, Product, Result, SumKind, part_mut, whole_mut,
};

const TOKENS: u64 = 24;
const BLOCK: usize = 64;

pub fn sums<D: Device>(check: &mut Check<'_, D>) -> Result<()> {
    let (device, r) = (check.device, &mut check.random);
    let (m, n, k) = (r.size(1..=40), r.size(1..=40), r.size(1..=50));
    let len = m * n;
    let (plain, a, b) = (r.values(len), r.values(m * k), r.values(k * n));
    let (buffer, ba, bb) = (upload(device, &plain)?, upload(device, &a)?, upload(device, &b)?);
    let shape = Product {
        m,
        n,
        k,
        transpose_a: true,
        transpose_b: false,
        accumulate: false,
    };
    let mut want = plain.clone();
    reference::product(
        Product {
            accumulate: true,
            ..shape
        },
        &a,
        &b,
        &mut want,
    );
    for kind in [SumKind::Fixed { shift: 38 }, SumKind::Float] {
        let mut sums = device.alloc_sums(kind, len)?;
        let mut scratch = device.alloc(len)?;
        device.accumulate(&mut sums, 0, all(device, &buffer))?;
        let space = whole_mut(&mut scratch, len);
        device.accumulate_product(&mut sums, 0, shape, all(device, &ba), all(device, &bb), space)?;
        // Another rank's sums of the same gradient.
        let bytes = device.sums_bytes(&sums, 0..len)?.into_owned();
        device.add_sums_bytes(&mut sums, 0..len, &bytes)?;
        check.bits.extend_from_slice(&device.sums_bytes(&sums, 0..len)?);
        let mean: Vec<f64> = device
            .mean(&sums, 0..len, TOKENS)?
            .iter()
            .map(|v| v.f64())
            .collect();
        check.compare_values(
            "mean",
            &mean,
            &want.iter().map(|v| 2.0 * v / TOKENS as f64).collect::<Vec<_>>(),
        );
        let squares = device.block_squares(&sums, 0..len, BLOCK, TOKENS)?;
        let mut out = vec![D::Float::ZERO; len];
        let again = device.mean_and_squares(&sums, 0..len, BLOCK, TOKENS, &mut out)?;
        let both = out.iter().map(|v| v.f64()).chain(again);
        if !both.eq(mean.iter().chain(&squares).copied()) {
            check
                .wrong
                .push("mean_and_squares differs from either alone".to_owned());
        }
        let plain: Vec<f64> = mean
            .chunks(BLOCK)
            .map(|b| b.iter().map(|v| v * v).sum())
            .collect();
        check.compare_values("block squares", &squares, &plain);
        device.clear(&mut sums, 0..len)?;
        if device.sums_bytes(&sums, 0..len)?.iter().any(|&b| b != 0) {
            check.wrong.push("clear left something".to_owned());
        }
        not_finite(check, kind)?;
    }
    Ok(())
}

/// A value that isn't finite, or is out of range, shows in the squares of its block, whatever is added later, by
/// whomever.
fn not_finite<D: Device>(check: &mut Check<'_, D>, kind: SumKind) -> Result<()> {
    let device = check.device;
    let huge = if matches!(kind, SumKind::Fixed { .. }) {
        1e30
    } else {
        f64::INFINITY
    };
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, huge] {
        let mut values = vec![0.5; 3 * BLOCK];
        values[BLOCK + 3] = bad;
        let (poisoned, clean) = (upload(device, &values)?, upload(device, &vec![-0.25; 3 * BLOCK])?);
        let (mut here, mut there) = (
            device.alloc_sums(kind, 3 * BLOCK)?,
            device.alloc_sums(kind, 3 * BLOCK)?,
        );
        device.accumulate(&mut here, 0, all(device, &poisoned))?;
        device.accumulate(&mut here, 0, all(device, &clean))?;
        device.accumulate(&mut there, 0, all(device, &clean))?;
        let bytes = device.sums_bytes(&here, 0..3 * BLOCK)?.into_owned();
        device.add_sums_bytes(&mut there, 0..3 * BLOCK, &bytes)?;
        let finite: Vec<bool> = device
            .block_squares(&there, 0..3 * BLOCK, BLOCK, 1)?
            .iter()
            .map(|s| s.is_finite())
            .collect();
        if finite != [true, false, true] {
            check.wrong.push(format!(
                "{bad} in block 1 with {kind:?} gave finite blocks {finite:?}"
            ));
        }
    }
    Ok(())
}

pub fn adamw<D: Device>(check: &mut Check<'_, D>) -> Result<()> {
    let (device, r) = (check.device, &mut check.random);
    let (len, from) = (r.size(1..=300), r.size(0..=9));
    let (p, m, g) = (r.values(len), r.values(len), r.values(len + from));
    let v: Vec<f64> = r.values(len).iter().map(|v| v.abs()).collect();
    let step = AdamStep {
        lr: 0.01,
        betas: [0.9, 0.95],
        eps: 1e-8,
        step: 3,
        tokens: TOKENS,
        clip: 0.7,
    };
    let state = |values: &[f64]| filled(device, device.alloc_state(len)?, values);
    let (mut bp, mut bm, mut bv) = (
        filled(device, device.alloc_weights(len)?, &p)?,
        state(&m)?,
        state(&v)?,
    );
    let mut sums = device.alloc_sums(SumKind::Fixed { shift: 38 }, len + from)?;
    device.accumulate(&mut sums, 0, all(device, &upload(device, &g)?))?;
    let floats = device.mean(&sums, from..from + len, TOKENS)?;
    let target = AdamTarget {
        weights: part_mut(&mut bp, 0..len),
        exp_avg: part_mut(&mut bm, 0..len),
        exp_avg_sq: part_mut(&mut bv, 0..len),
    };
    let cut = r.size(0..=len);
    // Two parts, of which the second doesn't decay.
    let parts = [(cut, 0.1), (len, 0.0)].map(|(end, weight_decay)| AdamPart { end, weight_decay });
    device.adamw(
        target,
        AdamSource::default(),
        &mut sums,
        from..from + len,
        &step,
        &parts,
        None,
    )?;
    let mean: Vec<f64> = g[from..].iter().map(|g| g / TOKENS as f64 * step.clip).collect();
    let want_m: Vec<f64> = m.iter().zip(&mean).map(|(m, g)| 0.9 * m + 0.1 * g).collect();
    let want_v: Vec<f64> = v
        .iter()
        .zip(&mean)
        .map(|(v, g)| 0.95 * v + 0.05 * g * g)
        .collect();
    let (c1, c2) = (1.0 - 0.9f64.powi(3), 1.0 - 0.95f64.powi(3));
    let moved = |i: usize| want_m[i] / c1 / ((want_v[i] / c2).sqrt() + step.eps);
    let want_p: Vec<f64> = (0..len)
        .map(|i| p[i] - step.lr * if i < cut { 0.1 } else { 0.0 } * p[i] - step.lr * moved(i))
        .collect();
    check.compare("exp_avg", &bm, &want_m)?;
    check.compare("exp_avg_sq", &bv, &want_v)?;
    check.compare("weights", &bp, &want_p)?;
    if device
        .sums_bytes(&sums, from..from + len)?
        .iter()
        .any(|&b| b != 0)
    {
        check.wrong.push("adamw left its gradient".to_owned());
    }
    let (mut tp, mut tm, mut tv) = (
        filled(device, device.alloc_weights(len)?, &p)?,
        state(&m)?,
        state(&v)?,
    );
    let target = AdamTarget {
        weights: part_mut(&mut tp, 0..len),
        exp_avg: part_mut(&mut tm, 0..len),
        exp_avg_sq: part_mut(&mut tv, 0..len),
    };
    device.adamw_with(target, AdamSource::default(), &floats, &step, &parts)?;
    let (mut none, mut am, mut av) = (device.alloc_weights(0)?, state(&m)?, state(&v)?);
    let target = AdamTarget {
        weights: part_mut(&mut none, 0..0),
        exp_avg: part_mut(&mut am, 0..len),
        exp_avg_sq: part_mut(&mut av, 0..len),
    };
    device.adamw_with(target, AdamSource::default(), &floats, &step, &parts)?;
    for (what, alone, here) in [("exp_avg", &am, &bm), ("exp_avg_sq", &av, &bv)] {
        if device.bytes(all(device, alone))? != device.bytes(all(device, here))? {
            check.wrong.push(format!("{what} differ without weights"));
        }
    }
    for (what, there, here) in [("weights", tp, bp), ("exp_avg", tm, bm), ("exp_avg_sq", tv, bv)] {
        if device.bytes(all(device, &there))? != device.bytes(all(device, &here))? {
            let what = format!("{what} differ with the gradient as floats");
            check.wrong.push(what);
        }
    }
    Ok(())
}
