//! From TOML text to a [`JobSpec`].

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::keys::{keys_of, nearest, sections, sections_in};
use super::sections::{
    DataSpec, EvaluationSpec, JobSection, JobSpec, LrScheduleSpec, OptimizerSpec, ParallelismSpec,
    TrainingSpec,
};
use super::{CheckpointSpec, RecoverySpec, SpecError, Violation};
use crate::{FailureClass, ModelConfig};

/// A parsed job file whose model section may still refer to files.
#[derive(Debug, Clone, PartialEq)]
pub struct JobFile {
    job: JobSection,
    model: ModelSection,
    /// The data section; a caller may make its paths absolute.
    pub data: DataSpec,
    training: TrainingSpec,
    evaluation: EvaluationSpec,
    optimizer: OptimizerSpec,
    lr_schedule: LrScheduleSpec,
    parallelism: ParallelismSpec,
    checkpoint: CheckpointSpec,
    recovery: RecoverySpec,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ModelSection {
    config: Option<String>,
    init_from: Option<String>,
    hidden_size: Option<u32>,
    intermediate_size: Option<u32>,
    num_hidden_layers: Option<u32>,
    num_attention_heads: Option<u32>,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    vocab_size: Option<u32>,
    max_position_embeddings: Option<u32>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    tie_word_embeddings: Option<bool>,
    initializer_range: Option<f64>,
}

impl JobFile {
    /// Parses the text of a job file.
    ///
    /// # Errors
    /// Every unknown section and key (with the nearest known one), or the first section that doesn't fit its types.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let table: Table =
            toml::from_str(text).map_err(|e| SpecError::one("job file", format!("not valid TOML: {e}")))?;
        let violations = unknown_keys(&table);
        if !violations.is_empty() {
            return Err(SpecError { violations });
        }
        Ok(Self {
            job: section(&table, "job")?,
            model: section(&table, "model")?,
            data: section(&table, "data")?,
            training: section(&table, "training")?,
            evaluation: section(&table, "evaluation")?,
            optimizer: section(&table, "optimizer")?,
            lr_schedule: section(&table, "lr_schedule")?,
            parallelism: section(&table, "parallelism")?,
            checkpoint: section(&table, "checkpoint")?,
            recovery: section(&table, "recovery")?,
        })
    }

    /// The file or folder with the base model, as the job file has it: `init_from` (a folder) or `config` (a file).
    #[must_use]
    pub fn base_model(&self) -> Option<&str> {
        self.model.init_from.as_deref().or(self.model.config.as_deref())
    }

    /// Every path in the file, for a caller that knows what they are relative to: `rewrite(path) -> path`.
    #[must_use]
    pub fn map_paths(mut self, rewrite: &dyn Fn(&str) -> String) -> Self {
        let all = |paths: &mut Vec<String>| paths.iter_mut().for_each(|p| *p = rewrite(p));
        all(&mut self.data.train);
        all(&mut self.data.val);
        if self.data.tokenizer != "bytes" {
            self.data.tokenizer = rewrite(&self.data.tokenizer);
        }
        for path in [
            &mut self.model.config,
            &mut self.model.init_from,
            &mut self.checkpoint.to,
        ]
        .into_iter()
        .flatten()
        {
            *path = rewrite(path);
        }
        self.job.output = rewrite(&self.job.output);
        self
    }

    /// Completes the model from `base` (what [`JobFile::base_model`] holds) and validates the whole.
    ///
    /// # Errors
    /// Every violation found.
    pub fn into_spec(self, base: Option<&ModelConfig>) -> Result<JobSpec, SpecError> {
        let spec = JobSpec {
            model: self.model.complete(base, &self.data)?,
            init_from: self.model.init_from,
            job: self.job,
            data: self.data,
            training: self.training,
            evaluation: self.evaluation,
            optimizer: self.optimizer,
            lr_schedule: self.lr_schedule,
            parallelism: self.parallelism,
            checkpoint: self.checkpoint,
            recovery: self.recovery,
        };
        spec.validate()?;
        Ok(spec)
    }
}

impl ModelSection {
    fn complete(&self, base: Option<&ModelConfig>, data: &DataSpec) -> Result<ModelConfig, SpecError> {
        let mut missing = Vec::new();
        let mut need = |key: &str, own: Option<u32>, base: Option<u32>| {
            own.or(base).unwrap_or_else(|| {
                missing.push(Violation::new(
                    format!("model.{key}"),
                    "is missing; give it, or config, or init_from",
                ));
                1
            })
        };
        let hidden_size = need("hidden_size", self.hidden_size, base.map(|b| b.hidden_size));
        let intermediate_size = need(
            "intermediate_size",
            self.intermediate_size,
            base.map(|b| b.intermediate_size),
        );
        let num_hidden_layers = need(
            "num_hidden_layers",
            self.num_hidden_layers,
            base.map(|b| b.num_hidden_layers),
        );
        let heads = need(
            "num_attention_heads",
            self.num_attention_heads,
            base.map(|b| b.num_attention_heads),
        );
        let byte_vocab = (data.tokenizer == "bytes").then_some(256);
        let vocab_size = need(
            "vocab_size",
            self.vocab_size,
            base.map(|b| b.vocab_size).or(byte_vocab),
        );
        if !missing.is_empty() {
            return Err(SpecError { violations: missing });
        }
        let kv = self
            .num_key_value_heads
            .or(base.map(|b| b.num_key_value_heads))
            .unwrap_or(heads);
        let head_dim = match self.head_dim.or(base.map(|b| b.head_dim)) {
            Some(head_dim) => head_dim,
            None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                let why = format!(
                    "{heads} heads don't divide hidden_size = {hidden_size}; change one of them or give head_dim"
                );
                return Err(SpecError::one("model.num_attention_heads", why));
            }
        };
        Ok(ModelConfig {
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: kv,
            head_dim,
            vocab_size,
            max_position_embeddings: self
                .max_position_embeddings
                .or(base.map(|b| b.max_position_embeddings))
                .unwrap_or(data.seq_len),
            rms_norm_eps: self.rms_norm_eps.or(base.map(|b| b.rms_norm_eps)).unwrap_or(1e-5),
            rope_theta: self.rope_theta.or(base.map(|b| b.rope_theta)).unwrap_or(10_000.0),
            tie_word_embeddings: self
                .tie_word_embeddings
                .or(base.map(|b| b.tie_word_embeddings))
                .unwrap_or(false),
            initializer_range: self
                .initializer_range
                .or(base.map(|b| b.initializer_range))
                .unwrap_or(0.02),
        })
    }
}

fn unknown_keys(table: &Table) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (name, value) in table {
        let known: Vec<_> = sections()
            .into_iter()
            .filter(|name| !name.contains('.'))
            .collect();
        if !known.contains(&name.as_str()) {
            violations.push(Violation::new(
                format!("[{name}]"),
                format!("unknown section{}", meant(name, &known)),
            ));
            continue;
        }
        let Value::Table(section) = value else {
            violations.push(Violation::new(name, format!("must be a section: write [{name}]")));
            continue;
        };
        violations.extend(unknown_keys_in(name, section));
    }
    violations.extend(unknown_classes(table));
    violations
}

fn unknown_keys_in(name: &str, section: &Table) -> Vec<Violation> {
    let known: Vec<_> = keys_of(name).into_iter().chain(sections_in(name)).collect();
    let mut violations = Vec::new();
    for (key, value) in section {
        let whole = format!("{name}.{key}");
        match value {
            Value::Table(inside) if sections_in(name).contains(&key.as_str()) => {
                violations.extend(unknown_keys_in(&whole, inside));
            }
            _ if known.contains(&key.as_str()) => {}
            _ => violations.push(Violation::new(
                whole,
                format!("unknown key{}", meant(key, &known)),
            )),
        }
    }
    violations
}

/// Names of failure classes in `recovery.max_restarts_of` that aren't any.
fn unknown_classes(table: &Table) -> Vec<Violation> {
    let bounds = table
        .get("recovery")
        .and_then(|section| section.get("max_restarts_of"));
    let Some(Value::Table(bounds)) = bounds else {
        return Vec::new();
    };
    let all = FailureClass::ALL.iter().copied().filter(|class| class.may_pass());
    let known: Vec<&str> = all.map(FailureClass::as_str).collect();
    let is_none = |name: &&String| FailureClass::ALL.iter().all(|class| class.as_str() != *name);
    let unknown = bounds.keys().filter(is_none);
    let told = |name: &String| {
        let why = format!("unknown failure class{}", meant(&name.to_uppercase(), &known));
        Violation::new(format!("recovery.max_restarts_of.{name}"), why)
    };
    unknown.map(told).collect()
}

fn meant(word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => format!("; known here: {}", known.join(", ")),
    }
}

fn section<T: DeserializeOwned>(table: &Table, name: &str) -> Result<T, SpecError> {
    let value = table
        .get(name)
        .cloned()
        .unwrap_or_else(|| Value::Table(Table::new()));
    value
        .try_into()
        .map_err(|e: toml::de::Error| SpecError::one(format!("[{name}]"), e.message().to_owned()))
}
