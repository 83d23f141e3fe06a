//! Tables of the rotary embedding (Su et al. 2021; frequencies as in Hugging Face's default LLaMA variant).

use rekindle_compute::{Device, Float, part_mut};

use super::{Result, StageSpec};

/// Cosines and sines, `[seq_len, head_dim/2]`.
pub(super) struct Rope<D: Device> {
    pub cos: D::Buffer,
    pub sin: D::Buffer,
    pub len: usize,
}

impl<D: Device> Rope<D> {
    pub fn new(device: &D, spec: &StageSpec) -> Result<Self> {
        let half = spec.model.head_dim as usize / 2;
        let len = spec.seq_len as usize * half;
        let angle = |i: usize| {
            let frequency = spec.model.rope_theta.powf(-((i % half) as f64) / half as f64);
            (i / half) as f64 * frequency
        };
        let mut rope = Self {
            cos: device.alloc_wide(len)?,
            sin: device.alloc_wide(len)?,
            len,
        };
        let cos: Vec<D::Float> = (0..len).map(|i| D::Float::of(angle(i).cos())).collect();
        let sin: Vec<D::Float> = (0..len).map(|i| D::Float::of(angle(i).sin())).collect();
        device.write(part_mut(&mut rope.cos, 0..len), &cos)?;
        device.write(part_mut(&mut rope.sin, 0..len), &sin)?;
        Ok(rope)
    }
}
