//! Frozen state: what a handle gives stays, and an update out of place gives the bits of one in place.

use std::time::Duration;

use super::{Check, filled, upload};
use crate::{
    AdamPart, AdamSource, AdamStep, AdamTarget, ComputeError, Device, Frozen, Hashing, Result, SumKind, part,
    part_mut, whole, whole_mut,
};

/// Long enough for any copy to the host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Elements of an update at most: several tasks of a thread each.
const MOST: usize = 40_000;

/// Elements of a hashed block.
const BLOCK: usize = 256;

/// Weights, first and second moments.
type State<D> = [<D as Device>::Buffer; 3];

fn step() -> AdamStep {
    AdamStep {
        lr: 0.02,
        betas: [0.9, 0.99],
        eps: 1e-8,
        step: 5,
        tokens: 7,
        clip: 0.9,
    }
}

fn state<D: Device>(device: &D, values: &[Vec<f64>; 3]) -> Result<State<D>> {
    let [w, m, v] = values;
    let state = |values: &[f64]| filled(device, device.alloc_state(values.len())?, values);
    Ok([
        filled(device, device.alloc_weights(w.len())?, w)?,
        state(m)?,
        state(v)?,
    ])
}

fn bytes<D: Device>(device: &D, state: &State<D>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for buffer in state {
        all.extend_from_slice(&device.bytes(whole(buffer, device.len(buffer)))?);
    }
    Ok(all)
}

/// A step over parts that end at `ends`, with the mean as `floats` or from sums; returns the hashes of the blocks, if
/// the device makes them.
fn update<D: Device>(
    device: &D,
    state: &mut State<D>,
    before: &[Option<D::Buffer>; 3],
    gradient: &D::Buffer,
    (kind, floats): (SumKind, bool),
    ends: &[usize],
) -> Result<Option<[Vec<u128>; 3]>> {
    let len = device.len(gradient);
    let mut sums = device.alloc_sums(kind, len)?;
    device.accumulate(&mut sums, 0, whole(gradient, len))?;
    let old = |n: usize| before[n].as_ref().map(|buffer| whole(buffer, len));
    let source = AdamSource {
        weights: old(0),
        exp_avg: old(1),
        exp_avg_sq: old(2),
    };
    let [weights, exp_avg, exp_avg_sq] = state;
    let target = AdamTarget {
        weights: whole_mut(weights, len),
        exp_avg: whole_mut(exp_avg, len),
        exp_avg_sq: whole_mut(exp_avg_sq, len),
    };
    let part = |(n, &end): (usize, &usize)| AdamPart {
        end,
        weight_decay: n as f64 * 0.07,
    };
    let parts: Vec<AdamPart> = ends.iter().enumerate().map(part).collect();
    if floats {
        let gradient = device.mean(&sums, 0..len, step().tokens)?;
        device.adamw_with(target, source, &gradient, &step(), &parts)?;
        return Ok(None);
    }
    let mut hashes: [Vec<u128>; 3] = std::array::from_fn(|_| vec![0; len.div_ceil(BLOCK)]);
    let hashing = Hashing {
        block: BLOCK,
        hash: &hash,
        out: hashes.each_mut().map(Vec::as_mut_slice),
    };
    let done = device.adamw(target, source, &mut sums, 0..len, &step(), &parts, Some(hashing))?;
    Ok(done.then_some(hashes))
}

/// A hash that tells bytes, order and place.
fn hash(kind: usize, block: usize, bytes: &[u8]) -> u128 {
    let start = (kind * 1_000_003 + block) as u128;
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013B)
    })
}

/// An update of frozen state: any of the three buffers may be held, and the handles show what was there before.
pub fn updates<D: Device>(check: &mut Check<'_, D>) -> Result<()> {
    let (device, r) = (check.device, &mut check.random);
    let len = r.size(1..=MOST);
    let mut ends = vec![r.size(0..=len), r.size(0..=len), len];
    ends.sort_unstable();
    let squares = r.values(len).iter().map(|v| v.abs()).collect();
    let values = [r.values(len), r.values(len), squares];
    let gradient = upload(device, &r.values(len))?;
    let fixed = SumKind::Fixed { shift: 38 };
    for (kind, floats) in [(fixed, false), (SumKind::Float, false), (fixed, true)] {
        let held = check.random.size(0..=7);
        let mut plain = state(device, &values)?;
        update(
            device,
            &mut plain,
            &[None, None, None],
            &gradient,
            (kind, false),
            &ends,
        )?;
        let mut other = state(device, &values)?;
        let want = bytes(device, &other)?;
        let width = want.len() / 3;
        let frozen: Vec<(usize, D::Frozen)> = (0..3)
            .filter(|n| held >> n & 1 == 1)
            .map(|n| Ok((n, device.freeze(&other[n], 0..len)?)))
            .collect::<Result<_>>()?;
        device.reserve_spares(&vec![len; frozen.len()])?;
        let before = device.thaw(other.each_mut(), PATIENCE)?;
        let hashes = update(device, &mut other, &before, &gradient, (kind, floats), &ends)?;
        drop(before);
        if bytes(device, &other)? != bytes(device, &plain)? {
            let what = format!(
                "adamw out of place (buffers {held:03b}, {kind:?}, floats: {floats}) differs from in place"
            );
            check.wrong.push(what);
        }
        for (n, hashes) in hashes.iter().flatten().enumerate() {
            let bytes = device.bytes(whole(&other[n], len))?;
            let blocks = bytes.chunks(BLOCK * size_of::<D::Float>()).enumerate();
            if !blocks
                .map(|(at, block)| hash(n, at, block))
                .eq(hashes.iter().copied())
            {
                let what = format!(
                    "hashes of buffer {n} aren't those of what the step left (buffers {held:03b} held)"
                );
                check.wrong.push(what);
            }
        }
        for (n, handle) in &frozen {
            if handle.bytes()? != &want[n * width..(n + 1) * width] {
                check.wrong.push(format!("frozen buffer {n} changed"));
            }
        }
        check.bits.extend(bytes(device, &other)?);
    }
    Ok(())
}

/// Writes while a handle is held are refused or leave it alone; after it is dropped they succeed.
pub fn writes<D: Device>(check: &mut Check<'_, D>) -> Result<()> {
    let (device, r) = (check.device, &mut check.random);
    let len = MOST + r.size(1..=200);
    let (from, to) = (r.size(0..=len / 2), r.size(len / 2..=len));
    let mut buffer = filled(device, device.alloc_weights(len)?, &r.values(len))?;
    let want = device.bytes(part(&buffer, from..to))?.into_owned();
    let handle = device.freeze(&buffer, from..to)?;
    let refused = match device.fill_zero(part_mut(&mut buffer, 0..len)) {
        Ok(()) => false,
        Err(ComputeError::Frozen { .. }) => true,
        Err(error) => return Err(error),
    };
    if handle.bytes()? != want {
        check
            .wrong
            .push(format!("a write (refused: {refused}) changed a frozen part"));
    }
    // Nothing as long as this was reserved: either the copy is done, or the wait ends with its own error.
    match device.thaw([&mut buffer], Duration::from_millis(1)) {
        Ok([None]) => {}
        Ok([Some(_)]) => check.wrong.push("thaw used a spare nobody reserved".to_owned()),
        Err(ComputeError::StillFrozen { .. }) if refused => {}
        Err(error) => return Err(error),
    }
    drop(handle);
    if device.thaw([&mut buffer], PATIENCE)?[0].is_some() {
        check
            .wrong
            .push("thaw replaced a buffer that nobody holds".to_owned());
    }
    device.fill_zero(part_mut(&mut buffer, 0..len))?;
    if device.freeze(&buffer, 0..len + 1).is_ok() {
        check
            .wrong
            .push("elements outside the buffer were frozen".to_owned());
    }
    Ok(())
}
