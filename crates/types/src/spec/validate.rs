//! Relations between keys that make a job possible or not.

use super::sections::{Auto, JobSpec, LrKind};
use super::{SpecError, Violation};

/// Collects violations under short names.
pub(super) struct Findings(Vec<Violation>);

impl Findings {
    pub(super) fn check(&mut self, good: bool, field: &str, why: impl FnOnce() -> String) {
        if !good {
            self.0.push(Violation::new(field, why()));
        }
    }
}

/// Of [`JobSpec::widest_activations`], at most: above that, bytes of memory are no longer counted without overflow.
const MOST_ACTIVATIONS: u128 = 1 << 50;

impl JobSpec {
    /// Checks everything that can be checked without looking at files or workers.
    ///
    /// # Errors
    /// Every violation found.
    pub fn validate(&self) -> Result<(), SpecError> {
        let mut found = Findings(Vec::new());
        self.check_job(&mut found);
        if let Err(error) = self.model.validate() {
            found
                .0
                .push(Violation::new(format!("model.{}", error.key), error.why));
        }
        self.check_data(&mut found);
        self.check_training(&mut found);
        self.check_optimizer(&mut found);
        self.check_parallelism(&mut found);
        self.check_checkpoint(&mut found);
        self.check_recovery(&mut found);
        if found.0.is_empty() {
            Ok(())
        } else {
            Err(SpecError { violations: found.0 })
        }
    }

    fn check_job(&self, found: &mut Findings) {
        let name = &self.job.name;
        let good = name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        found.check(
            good && (1..=40).contains(&name.len()) && !name.starts_with('-'),
            "job.name",
            || format!("{name:?} is not usable; use 1 to 40 of [a-z0-9-], not starting with '-'"),
        );
        let output = &self.job.output;
        found.check(!output.is_empty(), "job.output", || {
            "is empty; name a folder".to_owned()
        });
        let remote = output.contains("://") && !output.starts_with("file://");
        found.check(!remote, "job.output", || {
            format!("{output:?} is not a local folder; use a path or a file:// URL")
        });
    }

    fn check_data(&self, found: &mut Findings) {
        let data = &self.data;
        found.check(!data.train.is_empty(), "data.train", || {
            "is empty; name at least one file".to_owned()
        });
        let (seq, max) = (data.seq_len, self.model.max_position_embeddings);
        found.check(seq > 0, "data.seq_len", || "must be at least 1".to_owned());
        found.check(seq <= max, "data.seq_len", || {
            format!(
                "{seq} is more than model.max_position_embeddings = {max}; shorten one or raise the other"
            )
        });
        let vocab = self.model.vocab_size;
        found.check(
            data.tokenizer != "bytes" || vocab >= 256 || self.is_tokens(),
            "model.vocab_size",
            || format!("{vocab} is too small for the bytes tokenizer; use 256 or more"),
        );
        found.check(
            self.evaluation.every == 0 || !data.val.is_empty(),
            "evaluation.every",
            || "needs data.val to evaluate on".to_owned(),
        );
    }

    fn is_tokens(&self) -> bool {
        matches!(
            self.data.format,
            super::DataFormat::TokensU16 | super::DataFormat::TokensU32
        )
    }

    fn check_training(&self, found: &mut Findings) {
        let t = &self.training;
        found.check(t.steps > 0, "training.steps", || "must be at least 1".to_owned());
        found.check(t.global_batch > 0, "training.global_batch", || {
            "must be at least 1".to_owned()
        });
        found.check(t.micro_batch > 0, "training.micro_batch", || {
            "must be at least 1".to_owned()
        });
        let divides = t.micro_batch > 0 && t.global_batch.is_multiple_of(t.micro_batch);
        found.check(divides, "training.micro_batch", || {
            format!(
                "{} doesn't divide training.global_batch = {}; use one of its divisors",
                t.micro_batch, t.global_batch
            )
        });
        found.check(self.tokens_per_step() <= 1 << 32, "training.global_batch", || {
            "global_batch * seq_len is more than 2^32 tokens".to_owned()
        });
        found.check(self.widest_activations() <= MOST_ACTIVATIONS, "training.micro_batch", || {
            "micro_batch * seq_len tokens of such a model are more than any memory holds; make one of them smaller".to_owned()
        });
        found.check(
            t.max_grad_norm.is_finite() && t.max_grad_norm >= 0.0,
            "training.max_grad_norm",
            || format!("{} is not a number of at least 0", t.max_grad_norm),
        );
    }

    /// Elements of a micro-batch, had every layer one activation, as wide as the widest there is.
    fn widest_activations(&self) -> u128 {
        let model = &self.model;
        let query = u128::from(model.num_attention_heads) * u128::from(model.head_dim);
        let widths = [model.hidden_size, model.intermediate_size, model.vocab_size].map(u128::from);
        let widest = widths.into_iter().fold(query, u128::max);
        let (rows, sequence) = (self.training.micro_batch, self.data.seq_len);
        // The model's own sizes may be out of range, too.
        [rows, sequence, model.num_hidden_layers.saturating_add(2)]
            .map(u128::from)
            .into_iter()
            .fold(widest, u128::saturating_mul)
    }

    fn check_optimizer(&self, found: &mut Findings) {
        let o = &self.optimizer;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        found.check(positive(o.lr), "optimizer.lr", || {
            format!("{} is not a positive number", o.lr)
        });
        found.check(positive(o.eps), "optimizer.eps", || {
            format!("{} is not a positive number", o.eps)
        });
        let betas = o.betas.iter().all(|b| (0.0..1.0).contains(b));
        found.check(betas, "optimizer.betas", || {
            format!("{:?} must both be at least 0 and below 1", o.betas)
        });
        let decay = o.weight_decay.is_finite() && o.weight_decay >= 0.0;
        found.check(decay, "optimizer.weight_decay", || {
            format!("{} is not a number of at least 0", o.weight_decay)
        });
        let s = &self.lr_schedule;
        found.check(
            (0.0..=1.0).contains(&s.min_lr_ratio),
            "lr_schedule.min_lr_ratio",
            || format!("{} is not between 0 and 1", s.min_lr_ratio),
        );
        found.check(
            s.decay_steps.is_none() || s.kind == LrKind::Wsd,
            "lr_schedule.decay_steps",
            || "only goes with kind = \"wsd\"".to_owned(),
        );
        let decay = s.decay_steps.unwrap_or(0);
        found.check(
            s.warmup_steps.saturating_add(decay) <= self.training.steps,
            "lr_schedule.warmup_steps",
            || {
                format!(
                    "warm-up and decay take more than training.steps = {}",
                    self.training.steps
                )
            },
        );
    }

    fn check_parallelism(&self, found: &mut Findings) {
        let layers = self.model.num_hidden_layers.saturating_add(2);
        if let Auto::Count(stages) = self.parallelism.pipeline {
            found.check((1..=layers).contains(&stages), "parallelism.pipeline", || {
                format!("{stages} stages for {layers} layers (blocks + embedding + head); use 1 to {layers}")
            });
        }
        if let Auto::Count(lanes) = self.parallelism.data {
            let most = if self.training.micro_batch == 0 {
                1
            } else {
                self.micro_batches().max(1)
            };
            found.check((1..=most).contains(&lanes), "parallelism.data", || {
                format!("{lanes} lanes for {most} micro-batches a step; use 1 to {most}")
            });
        }
    }

    fn check_checkpoint(&self, found: &mut Findings) {
        let c = &self.checkpoint;
        found.check(c.keep_last > 0, "checkpoint.keep_last", || {
            "must be at least 1".to_owned()
        });
        found.check(c.to.as_deref() != Some(""), "checkpoint.to", || {
            "is empty; name a folder or a URL".to_owned()
        });
        found.check(
            c.mtbf_hours.is_finite() && c.mtbf_hours > 0.0,
            "checkpoint.mtbf_hours",
            || format!("{} is not a positive number", c.mtbf_hours),
        );
    }
}
