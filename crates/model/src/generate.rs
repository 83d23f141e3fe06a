//! Sampling text from a whole model on one stage. Every token is one pass over the last `seq_len` tokens; nothing is
//! cached.

use rekindle_compute::Device;

use crate::Philox;
use crate::engine::{EngineError, Result, Stage};

/// How to choose the next token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// How many tokens to add.
    pub tokens: usize,
    /// 0 takes the likeliest token; higher values flatten the distribution.
    pub temperature: f64,
    /// The seed of the choices (Philox; the counter is the token's number).
    pub seed: u64,
}

/// Continues `prompt` and returns the new tokens only.
///
/// # Errors
/// [`EngineError::Input`] for an empty prompt, and those of [`Stage::logits`].
pub fn sample<D: Device>(stage: &mut Stage<D>, prompt: &[u32], sampling: &Sampling) -> Result<Vec<u32>> {
    if prompt.is_empty() {
        return Err(EngineError::Input {
            what: "prompt tokens",
            have: 0,
            want: 1,
        });
    }
    let window = stage.spec().seq_len as usize;
    let philox = Philox::new(sampling.seed);
    let mut all = prompt.to_vec();
    for n in 0..sampling.tokens as u64 {
        let logits = stage.logits(&all[all.len().saturating_sub(window)..])?;
        let [uniform, _] = philox.uniforms([n as u32, (n >> 32) as u32, 0, 0x5A4D]);
        all.push(choose(&logits, sampling.temperature, uniform));
    }
    Ok(all.split_off(prompt.len()))
}

/// The token at `uniform` of the cumulated distribution softmax(logits / temperature).
fn choose(logits: &[f32], temperature: f64, uniform: f64) -> u32 {
    let mut best = 0;
    for (i, &x) in logits.iter().enumerate() {
        if x > logits[best] {
            best = i;
        }
    }
    if temperature <= 0.0 {
        return best as u32;
    }
    let weight = |x: f32| (f64::from(x - logits[best]) / temperature).exp();
    let total: f64 = logits.iter().map(|&x| weight(x)).sum();
    let mut left = uniform * total;
    for (i, &x) in logits.iter().enumerate() {
        left -= weight(x);
        if left < 0.0 {
            return i as u32;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choice_follows_the_distribution() {
        let logits = [0.0f32, 2.0f32.ln(), 5.0f32.ln()];
        assert_eq!(choose(&logits, 0.0, 0.01), 2);
        let picks: Vec<u32> = [0.05, 0.2, 0.5, 0.99]
            .iter()
            .map(|&u| choose(&logits, 1.0, u))
            .collect();
        assert_eq!(picks, [0, 1, 2, 2]);
        assert_eq!(choose(&[1.0, 1.0, 0.0], 0.0, 0.5), 0);
    }
}
