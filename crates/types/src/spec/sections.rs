//! The sections of a job file as plain data.

use serde::{Deserialize, Serialize};

use super::{CheckpointSpec, RecoverySpec};
use crate::ModelConfig;

/// A whole, valid job. See `docs/job-file.md` for what each key means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// `[job]`
    pub job: JobSection,
    /// `[model]`, completed from `config` or `init_from` where the file names one.
    pub model: ModelConfig,
    /// Hugging Face folder the weights start from, or a checkpoint (`…/step-00000050`) the run goes on from; none:
    /// seeded random weights.
    pub init_from: Option<String>,
    /// `[data]`
    pub data: DataSpec,
    /// `[training]`
    pub training: TrainingSpec,
    /// `[evaluation]`
    pub evaluation: EvaluationSpec,
    /// `[optimizer]`
    pub optimizer: OptimizerSpec,
    /// `[lr_schedule]`
    pub lr_schedule: LrScheduleSpec,
    /// `[parallelism]`
    pub parallelism: ParallelismSpec,
    /// `[checkpoint]`
    #[serde(default)]
    pub checkpoint: CheckpointSpec,
    /// `[recovery]`
    #[serde(default)]
    pub recovery: RecoverySpec,
}

/// `[job]`: name, seed and where the run's folder is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSection {
    /// Becomes the start of the job's id.
    pub name: String,
    /// Seeds weights and data order.
    #[serde(default)]
    pub seed: u64,
    /// Folder for metrics, events, logs and the exported model.
    pub output: String,
}

impl JobSection {
    /// The local folder that `output` names, with or without `file://`.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        std::path::Path::new(self.output.strip_prefix("file://").unwrap_or(&self.output))
    }
}

/// What the data files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataFormat {
    /// By file extension.
    #[default]
    Auto,
    /// UTF-8 text.
    Text,
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
    /// Headerless little-endian 16-bit token ids.
    TokensU16,
    /// Headerless little-endian 32-bit token ids.
    TokensU32,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Files, folders or globs to train on.
    pub train: Vec<String>,
    /// Files, folders or globs held out for evaluation.
    #[serde(default)]
    pub val: Vec<String>,
    /// What the files hold.
    #[serde(default)]
    pub format: DataFormat,
    /// `bytes` or the path of a `tokenizer.json`.
    #[serde(default = "defaults::tokenizer")]
    pub tokenizer: String,
    /// Field (JSONL) or column (Parquet) that holds the text.
    #[serde(default = "defaults::text_field")]
    pub text_field: String,
    /// Tokens a sequence.
    pub seq_len: u32,
    /// Whether samples come in a seeded random order.
    #[serde(default = "defaults::yes")]
    pub shuffle: bool,
}

/// How gradients of micro-batches and lanes are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Numerics {
    /// 64-bit fixed point: the sum doesn't depend on order or owner.
    #[default]
    Exact,
    /// 32-bit floats in rank order: results depend on the number of lanes.
    Fast,
}

/// What the backward pass computes anew instead of keeping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing: what the backward pass needs of a block is kept.
    #[default]
    None,
    /// Only the input of a block is kept; the block is run forward again before its backward pass. The bits are the
    /// same.
    Block,
}

/// What activations and the operands of matrix products are stored as. Weights, moments, sums and checkpoints are
/// 32-bit floats in either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with the range of 32-bit ones. CUDA devices only.
    Bf16,
}

/// `[training]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSpec {
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences a step.
    pub global_batch: u32,
    /// Sequences a micro-batch; divides `global_batch`.
    pub micro_batch: u32,
    /// Gradients with a larger norm are scaled down to it; 0 switches clipping off.
    #[serde(default = "defaults::max_grad_norm")]
    pub max_grad_norm: f64,
    /// How gradients are added.
    #[serde(default)]
    pub numerics: Numerics,
    /// What is computed anew in the backward pass to save memory.
    #[serde(default)]
    pub recompute: Recompute,
    /// What activations are stored as.
    #[serde(default)]
    pub dtype: Dtype,
    /// A state digest is reported every so many steps and at the end; 0: at the end only.
    #[serde(default = "defaults::digest_every")]
    pub digest_every: u64,
}

/// `[evaluation]`: loss on held-out data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSpec {
    /// Evaluate every so many steps; 0: never.
    #[serde(default)]
    pub every: u64,
    /// Sequences of `data.val` to evaluate on; rounded up to whole micro-batches. 0: one global batch.
    #[serde(default)]
    pub sequences: u32,
}

/// `[optimizer]`: AdamW with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerSpec {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first and the second moment.
    #[serde(default = "defaults::betas")]
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    #[serde(default = "defaults::eps")]
    pub eps: f64,
    /// Applied to matrices, not to norms.
    #[serde(default = "defaults::weight_decay")]
    pub weight_decay: f64,
}

/// Shape of the learning rate over the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrKind {
    /// Warm-up, then constant.
    #[default]
    Constant,
    /// Warm-up, then half a cosine down to the minimum.
    Cosine,
    /// Warm-up, stable, then linear decay over the last `decay_steps`.
    Wsd,
}

/// `[lr_schedule]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LrScheduleSpec {
    /// Shape.
    #[serde(default)]
    pub kind: LrKind,
    /// Steps of linear warm-up from 0.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Steps of decay at the end (`wsd` only); none: a fifth of all steps.
    #[serde(default)]
    pub decay_steps: Option<u64>,
    /// The lowest learning rate as a share of `optimizer.lr`.
    #[serde(default)]
    pub min_lr_ratio: f64,
}

/// A number, or the planner's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "serde_json::Value")]
pub enum Auto {
    /// The planner chooses from the workers there are.
    #[default]
    Auto,
    /// This many.
    Count(u32),
}

impl TryFrom<toml::Value> for Auto {
    type Error = String;
    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) if text == "auto" => Ok(Self::Auto),
            toml::Value::Integer(n) => u32::try_from(n)
                .map(Self::Count)
                .map_err(|_| format!("{n} is out of range; use 1 or more, or \"auto\"")),
            other => Err(format!("{other} is neither a whole number nor \"auto\"")),
        }
    }
}

impl From<Auto> for serde_json::Value {
    fn from(auto: Auto) -> Self {
        match auto {
            Auto::Auto => "auto".into(),
            Auto::Count(n) => n.into(),
        }
    }
}

/// What carries tensors between trainers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// TCP connections.
    #[default]
    Tcp,
    /// Long payloads go through NCCL where both ends of a link compute on CUDA devices and have it, everything else
    /// through TCP.
    Nccl,
}

/// `[parallelism]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParallelismSpec {
    /// Pipeline stages.
    #[serde(default)]
    pub pipeline: Auto,
    /// Lanes: data-parallel copies of the pipeline.
    #[serde(default)]
    pub data: Auto,
    /// What carries tensors between trainers.
    #[serde(default)]
    pub transport: TransportKind,
}

impl JobSpec {
    /// Tokens a step plans to learn from.
    #[must_use]
    pub fn tokens_per_step(&self) -> u64 {
        u64::from(self.training.global_batch) * u64::from(self.data.seq_len)
    }

    /// Micro-batches a step, over all lanes.
    #[must_use]
    pub fn micro_batches(&self) -> u32 {
        self.training.global_batch / self.training.micro_batch
    }
}

mod defaults {
    pub(super) fn tokenizer() -> String {
        "bytes".to_owned()
    }
    pub(super) fn text_field() -> String {
        "text".to_owned()
    }
    pub(super) fn yes() -> bool {
        true
    }
    pub(super) fn max_grad_norm() -> f64 {
        1.0
    }
    pub(super) fn digest_every() -> u64 {
        10
    }
    pub(super) fn betas() -> [f64; 2] {
        [0.9, 0.95]
    }
    pub(super) fn eps() -> f64 {
        1e-8
    }
    pub(super) fn weight_decay() -> f64 {
        0.1
    }
}
