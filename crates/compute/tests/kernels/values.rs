//! Element types of the kernels, as bytes; buffers of the CPU device; comparisons.

use rekindle_compute::conformance::Random;
use rekindle_compute::{Cpu, CpuBuffer, Device, View, ViewMut, whole, whole_mut};

use crate::emulator::Arg;

/// An element type of kernels.
pub trait Element {
    /// How kernels' names end.
    const NAME: &'static str;
    const BYTES: usize;
    /// Largest error against the CPU, relative to the largest value.
    const TOLERANCE: f32;
    fn put(value: f32, to: &mut Vec<u8>);
    fn get(bytes: &[u8]) -> f32;

    fn bytes(values: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        values.iter().for_each(|&v| Self::put(v, &mut bytes));
        bytes
    }
    fn values(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(Self::BYTES).map(Self::get).collect()
    }
    /// Random numbers in -size to size that the type represents.
    fn random(r: &mut Random, len: usize, size: f32) -> Vec<f32> {
        let values: Vec<f32> = r.values(len).iter().map(|&v| v as f32 * size).collect();
        Self::values(&Self::bytes(&values))
    }
    /// A buffer that begins `skip` elements after a multiple of 16 bytes.
    fn buffer(values: &[f32], skip: usize) -> Arg {
        Arg::Buffer {
            skip: (skip * Self::BYTES) as u32,
            bytes: Self::bytes(values),
        }
    }
}

pub struct Single;
impl Element for Single {
    const NAME: &'static str = "f32";
    const BYTES: usize = 4;
    const TOLERANCE: f32 = 1e-5;
    fn put(value: f32, to: &mut Vec<u8>) {
        to.extend_from_slice(&value.to_le_bytes());
    }
    fn get(bytes: &[u8]) -> f32 {
        f32::from_le_bytes(bytes.try_into().unwrap())
    }
}

pub struct Brain;
impl Element for Brain {
    const NAME: &'static str = "bf16";
    const BYTES: usize = 2;
    const TOLERANCE: f32 = 1e-2;
    fn put(value: f32, to: &mut Vec<u8>) {
        to.extend_from_slice(&to_bf16(value).to_le_bytes());
    }
    fn get(bytes: &[u8]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(bytes.try_into().unwrap())) << 16)
    }
}

/// The nearest bf16, ties to even: chosen from the two neighbours by distance; a NaN becomes 0x7fff, as on a GPU.
pub fn to_bf16(value: f32) -> u16 {
    let low = (value.to_bits() >> 16) as u16;
    if value.is_nan() {
        return 0x7fff;
    }
    let wide = |bits: u16| f64::from(f32::from_bits(u32::from(bits) << 16));
    let high = low.wrapping_add(1);
    if value.to_bits() & 0xffff == 0 {
        return low;
    }
    // Halfway between the greatest number and the next power is where infinity begins.
    let next = if f32::from_bits(u32::from(high) << 16).is_infinite() {
        2f64.powi(128).copysign(f64::from(value))
    } else {
        wide(high)
    };
    let (down, up) = (
        (f64::from(value) - wide(low)).abs(),
        (next - f64::from(value)).abs(),
    );
    if up < down || (up == down && high & 1 == 0) {
        high
    } else {
        low
    }
}

pub fn value<T: bytemuck::Pod>(value: T) -> Arg {
    Arg::Value(bytemuck::bytes_of(&value).to_vec())
}

pub fn words(values: &[u32]) -> Arg {
    Arg::Buffer {
        skip: 0,
        bytes: bytemuck::cast_slice(values).to_vec(),
    }
}

pub fn longs(values: &[i64], skip: usize) -> Arg {
    Arg::Buffer {
        skip: (skip * 8) as u32,
        bytes: bytemuck::cast_slice(values).to_vec(),
    }
}

pub fn to_longs(bytes: &[u8]) -> Vec<i64> {
    bytes
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

pub fn to_doubles(bytes: &[u8]) -> Vec<f64> {
    bytes
        .chunks_exact(8)
        .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// The same bits in every element.
#[track_caller]
pub fn same(what: &str, have: &[f32], want: &[f32]) {
    assert_eq!(have.len(), want.len(), "{what}");
    for (i, (h, w)) in have.iter().zip(want).enumerate() {
        assert!(h.to_bits() == w.to_bits(), "{what}[{i}]: {h} instead of {w}");
    }
}

/// Errors within `tolerance` of the largest value.
#[track_caller]
pub fn close(what: &str, have: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(have.len(), want.len(), "{what}");
    let size = want.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (i, (h, w)) in have.iter().zip(want).enumerate() {
        assert!(
            (h - w).abs() <= tolerance * size,
            "{what}[{i}]: {h} instead of {w}, largest {size}"
        );
    }
}

pub fn cpu() -> Cpu<f32> {
    Cpu::new(1).unwrap()
}

pub fn upload(cpu: &Cpu<f32>, values: &[f32]) -> CpuBuffer<f32> {
    let mut buffer = cpu.alloc(values.len()).unwrap();
    cpu.write(whole_mut(&mut buffer, values.len()), values).unwrap();
    buffer
}

pub fn all(buffer: &CpuBuffer<f32>) -> View<'_, CpuBuffer<f32>> {
    let len = cpu().len(buffer);
    whole(buffer, len)
}

pub fn all_mut(buffer: &mut CpuBuffer<f32>) -> ViewMut<'_, CpuBuffer<f32>> {
    let len = cpu().len(buffer);
    whole_mut(buffer, len)
}

pub fn read(buffer: &CpuBuffer<f32>) -> Vec<f32> {
    cpu().read(all(buffer)).unwrap().into_owned()
}
