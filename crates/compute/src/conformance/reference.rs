//! The operations written as plainly as possible, in `f64`.

use crate::{AttentionShape, Product};

pub fn product(shape: Product, a: &[f64], b: &[f64], c: &mut [f64]) {
    let Product { m, n, k, .. } = shape;
    for i in 0..m {
        for j in 0..n {
            let left = |d: usize| {
                if shape.transpose_a {
                    a[d * m + i]
                } else {
                    a[i * k + d]
                }
            };
            let right = |d: usize| {
                if shape.transpose_b {
                    b[j * k + d]
                } else {
                    b[d * n + j]
                }
            };
            let sum: f64 = (0..k).map(|d| left(d) * right(d)).sum();
            c[i * n + j] = if shape.accumulate { c[i * n + j] + sum } else { sum };
        }
    }
}

/// (y, rstd)
pub fn norm(x: &[f64], weight: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let width = weight.len();
    let rstd: Vec<f64> = x
        .chunks(width)
        .map(|row| 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / width as f64 + eps).sqrt())
        .collect();
    let y = x
        .iter()
        .enumerate()
        .map(|(i, v)| v * rstd[i / width] * weight[i % width])
        .collect();
    (y, rstd)
}

/// (dx, dweight)
pub fn norm_backward(x: &[f64], weight: &[f64], rstd: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let width = weight.len();
    let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; width]);
    for (r, &scale) in rstd.iter().enumerate() {
        let at = |i: usize| r * width + i;
        let dot: f64 = (0..width).map(|i| dy[at(i)] * weight[i] * x[at(i)]).sum();
        for i in 0..width {
            dx[at(i)] = dy[at(i)] * weight[i] * scale - x[at(i)] * dot * scale.powi(3) / width as f64;
            dweight[i] += dy[at(i)] * x[at(i)] * scale;
        }
    }
    (dx, dweight)
}

pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

pub fn silu_slope(x: f64) -> f64 {
    let s = 1.0 / (1.0 + (-x).exp());
    s * (1.0 + x * (1.0 - s))
}

/// (loss, dlogits)
pub fn cross_entropy(logits: &[f64], targets: &[u32]) -> (f64, Vec<f64>) {
    let width = logits.len() / targets.len();
    let (mut loss, mut gradient) = (0.0, Vec::new());
    for (row, &target) in logits.chunks(width).zip(targets) {
        let total: f64 = row.iter().map(|v| v.exp()).sum();
        loss += total.ln() - row[target as usize];
        gradient.extend(
            row.iter()
                .enumerate()
                .map(|(i, v)| v.exp() / total - f64::from(i == target as usize)),
        );
    }
    (loss, gradient)
}

pub fn rope(shape: AttentionShape, qkv: &mut [f64], cos: &[f64], sin: &[f64], inverse: bool) {
    let half = shape.head_dim / 2;
    for row in 0..shape.rows() {
        let position = row % shape.seq_len;
        for head in 0..shape.heads + shape.kv_heads {
            for i in 0..half {
                let low = row * shape.stride() + head * shape.head_dim + i;
                let (a, b) = (qkv[low], qkv[low + half]);
                let (c, s) = (cos[position * half + i], sin[position * half + i]);
                let s = if inverse { -s } else { s };
                qkv[low] = a * c - b * s;
                qkv[low + half] = b * c + a * s;
            }
        }
    }
}

/// One head of one sequence: where its queries, keys, values and outputs are.
struct Head {
    shape: AttentionShape,
    sequence: usize,
    head: usize,
}

impl Head {
    fn query(&self, row: usize, i: usize) -> usize {
        (self.sequence * self.shape.seq_len + row) * self.shape.stride() + self.head * self.shape.head_dim + i
    }
    fn key(&self, row: usize, i: usize) -> usize {
        let kv = self.head * self.shape.kv_heads / self.shape.heads;
        (self.sequence * self.shape.seq_len + row) * self.shape.stride()
            + (self.shape.heads + kv) * self.shape.head_dim
            + i
    }
    fn value(&self, row: usize, i: usize) -> usize {
        self.key(row, i) + self.shape.kv_heads * self.shape.head_dim
    }
    fn out(&self, row: usize, i: usize) -> usize {
        (self.sequence * self.shape.seq_len + row) * self.shape.width() + self.head * self.shape.head_dim + i
    }
    /// (probabilities of row `q` over keys 0..=q, logarithm of the row's sum)
    fn probabilities(&self, qkv: &[f64], q: usize) -> (Vec<f64>, f64) {
        let dim = self.shape.head_dim;
        let score = |k: usize| -> f64 {
            self.shape.scale
                * (0..dim)
                    .map(|i| qkv[self.query(q, i)] * qkv[self.key(k, i)])
                    .sum::<f64>()
        };
        let exps: Vec<f64> = (0..=q).map(|k| score(k).exp()).collect();
        let total: f64 = exps.iter().sum();
        (exps.iter().map(|e| e / total).collect(), total.ln())
    }
}

fn heads(shape: AttentionShape) -> impl Iterator<Item = Head> {
    (0..shape.sequences * shape.heads).map(move |n| Head {
        shape,
        sequence: n / shape.heads,
        head: n % shape.heads,
    })
}

/// (out, lse)
pub fn attention(shape: AttentionShape, qkv: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut out = vec![0.0; shape.rows() * shape.width()];
    let mut lse = Vec::new();
    for head in heads(shape) {
        for q in 0..shape.seq_len {
            let (p, log) = head.probabilities(qkv, q);
            lse.push(log);
            for i in 0..shape.head_dim {
                out[head.out(q, i)] = (0..=q).map(|k| p[k] * qkv[head.value(k, i)]).sum();
            }
        }
    }
    (out, lse)
}

pub fn attention_backward(shape: AttentionShape, qkv: &[f64], dout: &[f64]) -> Vec<f64> {
    let mut d = vec![0.0; qkv.len()];
    for head in heads(shape) {
        for q in 0..shape.seq_len {
            let (p, _) = head.probabilities(qkv, q);
            let dp = |k: usize| -> f64 {
                (0..shape.head_dim)
                    .map(|i| dout[head.out(q, i)] * qkv[head.value(k, i)])
                    .sum()
            };
            let mean: f64 = (0..=q).map(|k| p[k] * dp(k)).sum();
            for (k, &p) in p.iter().enumerate() {
                let ds = p * (dp(k) - mean) * shape.scale;
                for i in 0..shape.head_dim {
                    d[head.query(q, i)] += ds * qkv[head.key(k, i)];
                    d[head.key(k, i)] += ds * qkv[head.query(q, i)];
                    d[head.value(k, i)] += p * dout[head.out(q, i)];
                }
            }
        }
    }
    d
}
