//! A whole cluster in one process: lanes of stages that hand each other slices, and reference fixtures.
#![allow(dead_code, missing_docs)]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rekindle_compute::{Cpu, Device, Float};
use rekindle_model::{AdamW, ExactSum, Stage, StageInput, StageOutput, StageSpec, StateDigest, StateKind};
use rekindle_types::{LayerId, ModelConfig, Numerics, Recompute, shard_range};

pub const ADAMW: AdamW = AdamW {
    betas: [0.9, 0.95],
    eps: 1e-8,
    weight_decay: 0.1,
};

pub fn small_model(tied: bool) -> ModelConfig {
    ModelConfig {
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 10,
        vocab_size: 61,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        tie_word_embeddings: tied,
        initializer_range: 0.08,
    }
}

#[derive(Clone)]
pub struct Shape {
    pub model: ModelConfig,
    pub cuts: Vec<Range<u32>>,
    pub lanes: u32,
    pub threads: usize,
    pub numerics: Numerics,
    pub recompute: Recompute,
    pub micro_batch: u32,
    pub micro_batches: u32,
    pub seq_len: u32,
}

impl Shape {
    pub fn single(model: ModelConfig) -> Self {
        let end = model.num_hidden_layers + 2;
        Self {
            model,
            cuts: std::iter::once(0..end).collect(),
            lanes: 1,
            threads: 1,
            numerics: Numerics::Exact,
            recompute: Recompute::None,
            micro_batch: 2,
            micro_batches: 4,
            seq_len: 13,
        }
    }

    pub fn tokens_per_step(&self) -> u64 {
        u64::from(self.micro_batch * self.micro_batches * self.seq_len)
    }
}

/// What a step reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub loss: f64,
    pub norm: f64,
    pub finite: bool,
}

pub struct Cluster<F: Float, D: Device<Float = F> = Cpu<F>> {
    pub shape: Shape,
    /// By lane, then stage.
    pub stages: Vec<Vec<Stage<D>>>,
    pub max_norm: f64,
    pub lr: f64,
    steps: u64,
}

impl<F: Float> Cluster<F> {
    pub fn new(shape: Shape) -> Self {
        let threads = shape.threads;
        Self::on(|| Arc::new(Cpu::new(threads).unwrap()), shape)
    }
}

impl<F: Float, D: Device<Float = F>> Cluster<F, D> {
    /// Stages on the devices that `device` gives.
    pub fn on(device: impl Fn() -> Arc<D>, shape: Shape) -> Self {
        let build = |lane: u32, layers: &Range<u32>| {
            let spec = StageSpec {
                model: shape.model.clone(),
                layers: layers.clone(),
                micro_batch: shape.micro_batch,
                seq_len: shape.seq_len,
                numerics: shape.numerics,
                recompute: shape.recompute,
                tokens_per_step: shape.tokens_per_step(),
                lane,
                lanes: shape.lanes,
                optimizer: ADAMW,
            };
            let mut stage = Stage::new(device(), spec).unwrap();
            stage.init_weights(7).unwrap();
            stage
        };
        let stages = (0..shape.lanes)
            .map(|lane| shape.cuts.iter().map(|cut| build(lane, cut)).collect())
            .collect();
        Self {
            shape,
            stages,
            max_norm: 1.0,
            lr: 1e-3,
            steps: 0,
        }
    }

    pub fn holders(&mut self, layer: LayerId) -> impl Iterator<Item = &mut Stage<D>> {
        self.stages
            .iter_mut()
            .flatten()
            .filter(move |s| s.layers().contains(&layer) || (s.holds_mirror() && layer == LayerId::Embed))
    }

    pub fn numel(&self, layer: LayerId) -> usize {
        self.shape.model.layout(layer).numel()
    }

    /// Forward and backward of one micro-batch (`rows + 1` tokens per sequence) on a lane; returns its loss.
    pub fn micro_batch(&mut self, lane: usize, slot: u32, samples: &[Vec<u32>]) -> f64 {
        let inputs: Vec<u32> = samples
            .iter()
            .flat_map(|s| s[..s.len() - 1].iter().copied())
            .collect();
        let targets: Vec<u32> = samples.iter().flat_map(|s| s[1..].iter().copied()).collect();
        let stages = &mut self.stages[lane];
        let (mut activations, mut loss) = (Vec::new(), 0.0);
        for (n, stage) in stages.iter_mut().enumerate() {
            let input = if n == 0 {
                StageInput::Tokens(&inputs)
            } else {
                StageInput::Activations(&activations)
            };
            match stage.forward(slot, input, Some(&targets)).unwrap() {
                StageOutput::Activations(values) => activations = values.into_owned(),
                StageOutput::Loss { sum } => loss = sum,
            }
        }
        let mut gradient: Option<Vec<F>> = None;
        for stage in stages.iter_mut().rev() {
            let mut done = Vec::new();
            let next = stage
                .backward(slot, gradient.as_deref(), &mut |_, layer| done.push(layer))
                .unwrap();
            gradient = next.map(|g| g.into_owned());
            done.reverse();
            assert_eq!(done, stage.layers());
        }
        assert!(gradient.is_none());
        loss
    }

    /// One optimizer step on `micro_batch * micro_batches` samples, dealt to the lanes in turn.
    pub fn step(&mut self, samples: &[Vec<u32>]) -> Step {
        let loss = self.forward_backward(samples);
        self.reduce();
        self.finish(loss)
    }

    pub fn forward_backward(&mut self, samples: &[Vec<u32>]) -> ExactSum {
        let mut loss = ExactSum::default();
        for (m, batch) in samples.chunks(self.shape.micro_batch as usize).enumerate() {
            let sum = self.micro_batch(m % self.shape.lanes as usize, m as u32, batch);
            loss = loss.add(ExactSum::of_loss(sum).unwrap()).unwrap();
        }
        loss
    }

    /// Mirrors to their owners, then lanes to the owners of shards.
    pub fn reduce(&mut self) {
        let all: Vec<LayerId> = self.shape.model.layers().collect();
        for lane in 0..self.shape.lanes as usize {
            let stages = &mut self.stages[lane];
            if stages.len() > 1 && stages[stages.len() - 1].holds_mirror() {
                let numel = self.shape.model.layout(LayerId::Embed).numel();
                let bytes = stages[stages.len() - 1]
                    .gradient_bytes(LayerId::Embed, 0..numel)
                    .unwrap()
                    .into_owned();
                stages[0]
                    .add_gradient_bytes(LayerId::Embed, 0..numel, &bytes)
                    .unwrap();
            }
        }
        for layer in all {
            for owner in 0..self.shape.lanes {
                let range = shard_range(self.numel(layer), self.shape.lanes, owner);
                for other in (0..self.shape.lanes).filter(|&o| o != owner) {
                    let home = |s: &Stage<D>| s.layers().contains(&layer);
                    let from = self.stages[other as usize].iter().find(|s| home(s)).unwrap();
                    let bytes = from.gradient_bytes(layer, range.clone()).unwrap().into_owned();
                    let to = self.stages[owner as usize].iter_mut().find(|s| home(s)).unwrap();
                    to.add_gradient_bytes(layer, range.clone(), &bytes).unwrap();
                }
            }
        }
    }

    pub fn finish(&mut self, loss: ExactSum) -> Step {
        let (mut squares, mut finite) = (ExactSum::default(), true);
        for stage in self.stages.iter_mut().flatten() {
            let summary = stage.finish_gradients().unwrap();
            squares = squares.add(summary.sum_squares).unwrap();
            finite &= summary.finite;
        }
        let norm = squares.norm();
        self.steps += 1;
        let clip = (self.max_norm / (norm + 1e-6)).min(1.0);
        let (steps, lr) = (self.steps, self.lr);
        for stage in self.stages.iter_mut().flatten() {
            for layer in stage.layers() {
                stage.update(layer, steps, lr, clip).unwrap();
            }
        }
        self.gather();
        Step {
            loss: loss.mean_loss(self.shape.tokens_per_step()),
            norm,
            finite,
        }
    }

    /// Updated shards to everybody who holds the layer.
    fn gather(&mut self) {
        for layer in self.shape.model.layers().collect::<Vec<_>>() {
            for owner in 0..self.shape.lanes {
                let range = shard_range(self.numel(layer), self.shape.lanes, owner);
                let home = self.stages[owner as usize]
                    .iter()
                    .find(|s| s.layers().contains(&layer))
                    .unwrap();
                let bytes = home.weight_bytes(layer, range.clone()).unwrap().into_owned();
                for stage in self.holders(layer) {
                    // The owner has them.
                    if stage.owned(layer).unwrap() == range {
                        continue;
                    }
                    stage.set_weight_bytes(layer, range.clone(), &bytes).unwrap();
                }
            }
        }
    }

    pub fn digest(&self) -> StateDigest {
        self.stages
            .iter()
            .flatten()
            .fold(StateDigest::default(), |d, s| d.add(s.digest().unwrap()))
    }
}

/// `count` samples of `len` tokens, learnable: a walk with a few preferred steps.
pub fn samples(seed: u64, count: usize, len: usize, vocab: u32) -> Vec<Vec<u32>> {
    let philox = rekindle_model::Philox::new(seed);
    (0..count as u32)
        .map(|sample| {
            let mut at = sample % vocab;
            (0..len as u32)
                .map(|i| {
                    at = (at + 1 + philox.words([i, sample, 0, 0])[0] % 5) % vocab;
                    at
                })
                .collect()
        })
        .collect()
}

/// How close to a reference run is close enough: relative errors of losses and norms, absolute ones of weights.
pub struct Close {
    pub loss: f64,
    pub norm: f64,
    pub weights: f32,
}

/// A PyTorch reference run.
pub struct Fixture {
    pub folder: PathBuf,
    pub model: ModelConfig,
    pub expected: serde_json::Value,
    pub tokens: Vec<u32>,
}

impl Fixture {
    /// None, with a message, when the folder isn't there.
    pub fn open(folder: &Path) -> Option<Self> {
        if !folder.is_dir() {
            eprintln!(
                "skipped: the reference run {} is not on this machine",
                folder.display()
            );
            return None;
        }
        let json = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
        };
        let c = json("config.json");
        let int = |key: &str| c[key].as_u64().unwrap() as u32;
        let theta = c["rope_parameters"]["rope_theta"]
            .as_f64()
            .or(c["rope_theta"].as_f64())
            .unwrap();
        let model = ModelConfig {
            hidden_size: int("hidden_size"),
            intermediate_size: int("intermediate_size"),
            num_hidden_layers: int("num_hidden_layers"),
            num_attention_heads: int("num_attention_heads"),
            num_key_value_heads: int("num_key_value_heads"),
            head_dim: int("head_dim"),
            vocab_size: int("vocab_size"),
            max_position_embeddings: int("max_position_embeddings"),
            rms_norm_eps: c["rms_norm_eps"].as_f64().unwrap(),
            rope_theta: theta,
            tie_word_embeddings: c["tie_word_embeddings"].as_bool().unwrap(),
            initializer_range: 0.02,
        };
        let bytes = std::fs::read(folder.join("tokens.bin")).unwrap();
        let tokens = bytes
            .chunks_exact(2)
            .map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])))
            .collect();
        Some(Self {
            folder: folder.to_owned(),
            model,
            expected: json("expected.json"),
            tokens,
        })
    }

    /// Each tensor of a file by layer, offset in the flat buffer and values.
    pub fn tensors(&self, file: &str) -> Vec<(LayerId, usize, Vec<f32>)> {
        let bytes = std::fs::read(self.folder.join(file)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut all = Vec::new();
        for layer in self.model.layers() {
            for spec in self.model.layout(layer).tensors {
                let view = file.tensor(&spec.name).unwrap();
                assert_eq!(view.shape(), spec.shape, "{}", spec.name);
                let values = view
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                all.push((layer, spec.offset, values.collect()));
            }
        }
        all
    }

    /// Samples of step `s`.
    pub fn batch(&self, s: usize) -> Vec<Vec<u32>> {
        let seq = self.expected["seq_len"].as_u64().unwrap() as usize;
        let batch = self.expected["batch"].as_u64().unwrap() as usize;
        (s * batch..(s + 1) * batch)
            .map(|k| self.tokens[k * seq..k * seq + seq + 1].to_vec())
            .collect()
    }

    pub fn list(&self, key: &str) -> Vec<f64> {
        self.expected[key]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .collect()
    }

    /// Trains as the reference did and checks losses, norms and final weights against it.
    pub fn check(&self, cuts: Vec<Range<u32>>, lanes: u32, micro_batch: u32, numerics: Numerics) {
        let close = Close {
            loss: 2e-5,
            norm: 2e-4,
            weights: 2e-4,
        };
        let device = || Arc::new(Cpu::<f32>::new(2).unwrap());
        self.check_on(device, (cuts, lanes, micro_batch), numerics, &close);
    }

    /// As [`Fixture::check`], with the devices that `device` gives.
    pub fn check_on<D: Device<Float = f32>>(
        &self,
        device: impl Fn() -> Arc<D>,
        (cuts, lanes, micro_batch): (Vec<Range<u32>>, u32, u32),
        numerics: Numerics,
        close: &Close,
    ) {
        let batch = self.expected["batch"].as_u64().unwrap() as u32;
        let seq_len = self.expected["seq_len"].as_u64().unwrap() as u32;
        let shape = Shape {
            model: self.model.clone(),
            cuts,
            lanes,
            threads: 2,
            numerics,
            recompute: Recompute::None,
            micro_batch,
            micro_batches: batch / micro_batch,
            seq_len,
        };
        let mut cluster = Cluster::on(device, shape);
        cluster.lr = self.expected["optimizer"]["lr"].as_f64().unwrap();
        cluster.max_norm = self.expected["optimizer"]["max_grad_norm"].as_f64().unwrap();
        for (layer, offset, values) in self.tensors("model.safetensors") {
            for stage in cluster.holders(layer) {
                stage.import(layer, StateKind::Weights, offset, &values).unwrap();
            }
        }
        let (losses, norms) = (self.list("losses"), self.list("grad_norms"));
        for s in 0..losses.len() {
            let step = cluster.step(&self.batch(s));
            let (loss_error, norm_error) = (
                (step.loss / losses[s] - 1.0).abs(),
                (step.norm / norms[s] - 1.0).abs(),
            );
            assert!(
                loss_error < close.loss,
                "step {s}: loss {} instead of {}",
                step.loss,
                losses[s]
            );
            assert!(
                norm_error < close.norm,
                "step {s}: norm {} instead of {}",
                step.norm,
                norms[s]
            );
        }
        let mut errors: Vec<f32> = Vec::new();
        for (layer, offset, values) in self.tensors("after.safetensors") {
            let stage = cluster.holders(layer).next().unwrap();
            let ours = stage
                .export(layer, StateKind::Weights, offset..offset + values.len())
                .unwrap();
            errors.extend(ours.iter().zip(&values).map(|(a, b)| (a - b).abs()));
        }
        errors.sort_by(f32::total_cmp);
        let percentile = errors[errors.len() * 999 / 1000];
        assert!(
            percentile < close.weights,
            "99.9th percentile of weight errors: {percentile}"
        );
        eprintln!(
            "weights: 99.9th percentile {percentile:e}, worst {:e}",
            errors[errors.len() - 1]
        );
    }
}
