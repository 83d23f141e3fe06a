//! Initial weights: element `i` of a tensor is a function of (seed, layer, tensor, i), so placement doesn't enter.
//!
//! Normal numbers come from the quantile function (Acklam's rational approximation, relative error 1.2e-9), in plain
//! arithmetic: no mathematics library whose last bit differs between machines.

use rekindle_types::{LayerId, TensorSpec, layer_code};

use crate::Philox;

const A: [f64; 6] = [
    -3.969_683_028_665_376e1,
    2.209_460_984_245_205e2,
    -2.759_285_104_469_687e2,
    1.383_577_518_672_69e2,
    -3.066_479_806_614_716e1,
    2.506_628_277_459_239,
];
const B: [f64; 5] = [
    -5.447_609_879_822_406e1,
    1.615_858_368_580_409e2,
    -1.556_989_798_598_866e2,
    6.680_131_188_771_972e1,
    -1.328_068_155_288_572e1,
];
const C: [f64; 6] = [
    -7.784_894_002_430_293e-3,
    -3.223_964_580_411_365e-1,
    -2.400_758_277_161_838,
    -2.549_732_539_343_734,
    4.374_664_141_464_968,
    2.938_163_982_698_783,
];
const D: [f64; 4] = [
    7.784_695_709_041_462e-3,
    3.224_671_290_700_398e-1,
    2.445_134_137_142_996,
    3.754_408_661_907_416,
];

/// Elements that are worth a thread: some milliseconds.
const PART: usize = 1 << 17;

fn polynomial(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().fold(0.0, |sum, c| sum * x + c)
}

/// Natural logarithm of a normal positive number, by the series of 2 atanh((m-1)/(m+1)).
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = ((bits >> 52) as i64 - 1023) as f64;
    let m = f64::from_bits((bits & ((1 << 52) - 1)) | 1023 << 52);
    let z = (m - 1.0) / (m + 1.0);
    let mut sum = 0.0;
    for n in (0..24).rev() {
        sum = sum * (z * z) + 1.0 / f64::from(2 * n + 1);
    }
    exponent * std::f64::consts::LN_2 + 2.0 * z * sum
}

/// The standard normal quantile of `p` in (0, 1).
fn quantile(p: f64) -> f64 {
    const TAIL: f64 = 0.02425;
    let tail = |p: f64| {
        let q = (-2.0 * ln(p)).sqrt();
        polynomial(&C, q) / (polynomial(&D, q) * q + 1.0)
    };
    if p < TAIL {
        tail(p)
    } else if p > 1.0 - TAIL {
        -tail(1.0 - p)
    } else {
        let q = p - 0.5;
        let r = q * q;
        polynomial(&A, r) * q / (polynomial(&B, r) * r + 1.0)
    }
}

/// Initial values: norms 1, matrices normal(0, `range`). `index` is the tensor's place in its layer's layout.
pub(crate) fn tensor(seed: u64, layer: LayerId, index: usize, spec: &TensorSpec, range: f64) -> Vec<f32> {
    if !spec.is_matrix() {
        return vec![1.0; spec.numel()];
    }
    let philox = Philox::new(seed);
    let mut values = vec![0.0; spec.numel()];
    let fill = &|first: u64, values: &mut [f32]| {
        for (pair, values) in (first..).zip(values.chunks_mut(2)) {
            // One counter per pair: 2^48 pairs, 2^24 layers, 2^8 tensors.
            let high = (pair >> 32) as u32 | (index as u32) << 24;
            let uniforms = philox.uniforms([pair as u32, high, layer_code(layer), 0]);
            for (value, u) in values.iter_mut().zip(uniforms) {
                *value = (quantile(u) * range) as f32;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // An even number, and not so few that a thread costs more than it brings.
    let part = values.len().div_ceil(threads).next_multiple_of(2).max(PART);
    std::thread::scope(|scope| {
        let mut parts = values.chunks_mut(part).enumerate();
        let own = parts.next();
        for (n, values) in parts {
            scope.spawn(move || fill((n * part / 2) as u64, values));
        }
        if let Some((_, values)) = own {
            fill(0, values);
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_and_quantile_match_known_values() {
        for x in [1e-300, 1e-9, 0.1, 0.5, 0.9999, 1.0, 2.5, 1e17] {
            assert!(
                (ln(x) - f64::ln(x)).abs() <= 1e-14 * f64::ln(x).abs().max(1.0),
                "{x}"
            );
        }
        for (p, z) in [
            (0.5, 0.0),
            (0.975, 1.959_963_985),
            (0.001, -3.090_232_306),
            (1e-9, -5.997_807_015),
        ] {
            assert!((quantile(p) - z).abs() < 2e-8, "{p}: {}", quantile(p));
        }
    }

    /// A tensor of several parts begins with the values of a shorter one, which is made by one thread.
    #[test]
    fn threads_do_not_show() {
        let of = |rows| TensorSpec {
            name: "w".into(),
            shape: vec![rows, 1001],
            offset: 0,
        };
        let long = tensor(3, LayerId::Head, 2, &of(700), 0.5);
        let short = tensor(3, LayerId::Head, 2, &of(101), 0.5);
        assert_eq!(long[..short.len()], short);
        let philox = Philox::new(3);
        let pair = 350_000u64;
        let want = philox.uniforms([pair as u32, 2 << 24, layer_code(LayerId::Head), 0]);
        assert_eq!(long[700_000..700_002], want.map(|u| (quantile(u) * 0.5) as f32));
    }

    #[test]
    fn values_have_the_wanted_spread_and_depend_on_every_part_of_the_key() {
        let spec = TensorSpec {
            name: "w".into(),
            shape: vec![100, 101],
            offset: 0,
        };
        let values = tensor(1, LayerId::Block(0), 1, &spec, 0.02);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let spread = (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n).sqrt();
        assert!(
            mean.abs() < 1e-3 && (spread - 0.02).abs() < 1e-3,
            "{mean} {spread}"
        );
        for other in [
            tensor(2, LayerId::Block(0), 1, &spec, 0.02),
            tensor(1, LayerId::Block(1), 1, &spec, 0.02),
            tensor(1, LayerId::Block(0), 2, &spec, 0.02),
        ] {
            assert_ne!(values, other);
        }
    }
}
