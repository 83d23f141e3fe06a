//! What every device must compute: each operation against a plain reference in `f64`, on random shapes, ragged ones
//! among them.
//!
//! Run it with [`check_all`] for a new device; errors are relative to the largest value of the reference. Run
//! [`fingerprint`] on two devices of one kind (other thread counts) and compare: it must be the same to the bit.

mod attention;
mod freezing;
mod gradients;
mod reference;
mod rows;

use crate::{Device, Float, Result, View, part, whole};

/// Random numbers for checks: xorshift64*, quality enough for shapes and values.
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number of `range`.
    pub fn size(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + self.next() as usize % (range.end() - range.start() + 1)
    }

    /// `len` numbers in -1 to 1 that `f32` represents.
    pub fn values(&mut self, len: usize) -> Vec<f64> {
        (0..len)
            .map(|_| (self.next() >> 40) as f64 / (1u64 << 23) as f64 - 1.0)
            .collect()
    }
}

/// A buffer with these values.
fn upload<D: Device>(device: &D, values: &[f64]) -> Result<D::Buffer> {
    filled(device, device.alloc(values.len())?, values)
}

/// A wide one.
fn upload_wide<D: Device>(device: &D, values: &[f64]) -> Result<D::Buffer> {
    filled(device, device.alloc_wide(values.len())?, values)
}

fn filled<D: Device>(device: &D, mut buffer: D::Buffer, values: &[f64]) -> Result<D::Buffer> {
    let values: Vec<D::Float> = values.iter().map(|&v| D::Float::of(v)).collect();
    device.write(crate::part_mut(&mut buffer, 0..values.len()), &values)?;
    Ok(buffer)
}

fn all<'a, D: Device>(device: &D, buffer: &'a D::Buffer) -> View<'a, D::Buffer> {
    whole(buffer, device.len(buffer))
}

/// What a check needs besides the device: tolerance, and what came out so far.
pub struct Check<'a, D> {
    device: &'a D,
    tolerance: f64,
    random: Random,
    /// The bits of every result, for [`fingerprint`].
    bits: Vec<u8>,
    /// Descriptions of what was wrong.
    wrong: Vec<String>,
}

impl<D: Device> Check<'_, D> {
    fn compare(&mut self, what: &str, have: &D::Buffer, want: &[f64]) -> Result<()> {
        let device = self.device;
        self.bits
            .extend_from_slice(&device.bytes(part(have, 0..want.len()))?);
        let have: Vec<f64> = device
            .read(part(have, 0..want.len()))?
            .iter()
            .map(|v| v.f64())
            .collect();
        self.compare_values(what, &have, want);
        Ok(())
    }

    fn compare_values(&mut self, what: &str, have: &[f64], want: &[f64]) {
        let size = want.iter().fold(1e-3f64, |a, b| a.max(b.abs()));
        for (i, (h, w)) in have.iter().zip(want).enumerate() {
            // Written so that NaN counts as wrong.
            if (h - w).abs() <= self.tolerance * size {
                continue;
            }
            self.wrong.push(format!("{what}[{i}]: {h} instead of {w}"));
            return;
        }
    }
}

fn run<D: Device>(device: &D, tolerance: f64, seed: u64, rounds: usize) -> Result<Check<'_, D>> {
    let mut check = Check {
        device,
        tolerance,
        random: Random::new(seed),
        bits: Vec::new(),
        wrong: Vec::new(),
    };
    for _ in 0..rounds {
        rows::products(&mut check)?;
        rows::norms(&mut check)?;
        rows::swiglu(&mut check)?;
        rows::loss(&mut check)?;
        rows::embedding(&mut check)?;
        attention::rope(&mut check)?;
        attention::attention(&mut check)?;
        gradients::sums(&mut check)?;
        gradients::adamw(&mut check)?;
        freezing::updates(&mut check)?;
        freezing::writes(&mut check)?;
    }
    Ok(check)
}

/// Checks every operation; returns descriptions of what is wrong, none if the device conforms. `tolerance` is relative:
/// about 1e-5 for `f32`, 1e-12 for `f64`.
///
/// # Errors
/// An operation that was refused although its operands were right.
pub fn check_all<D: Device>(device: &D, tolerance: f64, seed: u64, rounds: usize) -> Result<Vec<String>> {
    Ok(run(device, tolerance, seed, rounds)?.wrong)
}

/// The bits of all results of [`check_all`]'s operations.
///
/// # Errors
/// As [`check_all`].
pub fn fingerprint<D: Device>(device: &D, seed: u64, rounds: usize) -> Result<Vec<u8>> {
    Ok(run(device, f64::INFINITY, seed, rounds)?.bits)
}
