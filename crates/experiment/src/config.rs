//! Everything an experiment depends on, besides the text.

use rekindle_types::ModelConfig;
use serde::Serialize;

use crate::cost::CostModel;
use crate::error::{ExperimentError, Result};
use crate::method::{LrBoost, Method};
use crate::text::VOCAB;
use crate::trace::Failing;
use rekindle_plan::average::BoostRule;

/// The pipeline and what goes through it: the embedding, `stages` equal stages of blocks, the head.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: u32,
    /// Attention heads; divides `hidden` into even parts.
    pub heads: u32,
    /// Block stages.
    pub stages: u32,
    /// Blocks of each.
    pub blocks_per_stage: u32,
    /// Bytes of a sequence.
    pub seq_len: u32,
    /// Sequences of a micro-batch.
    pub micro_batch: u32,
    /// Micro-batches of a step; even, so that half of them can be swapped.
    pub micro_batches: u32,
}

impl Shape {
    /// Sequences of a step.
    #[must_use]
    pub fn sequences(&self) -> u32 {
        self.micro_batch * self.micro_batches
    }

    /// Tokens of a step.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        u64::from(self.sequences()) * u64::from(self.seq_len)
    }

    /// The model: bytes in and out, untied, SwiGLU of 8/3 the width rounded up to 8.
    #[must_use]
    pub fn model(&self) -> ModelConfig {
        ModelConfig {
            hidden_size: self.hidden,
            intermediate_size: (self.hidden * 8).div_ceil(3).next_multiple_of(8),
            num_hidden_layers: self.stages * self.blocks_per_stage,
            num_attention_heads: self.heads,
            num_key_value_heads: self.heads,
            head_dim: self.hidden / self.heads,
            vocab_size: VOCAB,
            max_position_embeddings: self.seq_len,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tie_word_embeddings: false,
            initializer_range: 0.02,
        }
    }
}

/// An experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// The pipeline.
    pub shape: Shape,
    /// Seeds of weights, order of samples and failures; one repetition each.
    pub seeds: Vec<u64>,
    /// Probabilities that one stage is lost in one iteration.
    pub rates: Vec<f64>,
    /// What is compared.
    pub methods: Vec<Method>,
    /// Which stages can be lost.
    pub failing: Failing,
    /// Committed steps of a run.
    pub steps: u64,
    /// Learning rate, constant.
    pub lr: f64,
    /// Gradients of a larger norm (over the whole model) are scaled down to it.
    pub max_grad_norm: f64,
    /// Steps between evaluations.
    pub eval_every: u64,
    /// Held-out sequences of an evaluation.
    pub eval_sequences: u32,
    /// The target is the undisturbed run's held-out loss at this share of its steps.
    pub target_share: f64,
    /// A run that hasn't got there ends after `longest * steps` iterations.
    pub longest: f64,
    /// The factor on a rebuilt stage's learning rate.
    pub boost: f64,
    /// Steps in which a factor that decays is back at 1.
    pub boost_decay: u64,
    /// Threads that compute.
    pub threads: usize,
    /// What isn't measured.
    pub costs: CostModel,
}

/// The methods of the quick comparison; the grid of the long one is the same.
const METHODS: [&str; 16] = [
    "none",
    "none:boost",
    "none:swap",
    "checkpoint-100",
    "checkpoint-50",
    "checkpoint-10",
    "redundant",
    "shadow",
    "random",
    "copy",
    "average",
    "checkfree:l2",
    "checkfree",
    "checkfree:second:decay",
    "checkfree+",
    "loss-aware",
];

impl Config {
    /// A few minutes on 2 cores.
    #[must_use]
    pub fn quick() -> Self {
        let shape = Shape {
            hidden: 64,
            heads: 4,
            stages: 6,
            blocks_per_stage: 1,
            seq_len: 64,
            micro_batch: 4,
            micro_batches: 4,
        };
        Self {
            shape,
            seeds: vec![1, 2],
            rates: vec![0.004],
            methods: METHODS.iter().filter_map(|m| m.parse().ok()).collect(),
            failing: Failing::Blocks,
            steps: 240,
            lr: 2e-3,
            max_grad_norm: 1.0,
            eval_every: 10,
            eval_sequences: 64,
            target_share: 0.75,
            longest: 3.0,
            boost: 1.1,
            boost_decay: 100,
            threads: 1,
            costs: CostModel::default(),
        }
    }

    /// Hours: three rates and three seeds of a model of 2.4 million parameters.
    #[must_use]
    pub fn full() -> Self {
        let quick = Self::quick();
        let shape = Shape {
            hidden: 128,
            blocks_per_stage: 2,
            seq_len: 128,
            ..quick.shape
        };
        Self {
            shape,
            seeds: vec![1, 2, 3],
            rates: vec![0.0009, 0.002, 0.004],
            steps: 1500,
            lr: 1e-3,
            eval_every: 25,
            eval_sequences: 128,
            ..quick
        }
    }

    /// Iterations after which a run ends.
    #[must_use]
    pub fn most_iterations(&self) -> u64 {
        (self.steps as f64 * self.longest).ceil() as u64
    }

    /// What a lossy method does to the learning rate.
    #[must_use]
    pub fn boost_rule(&self, boost: LrBoost) -> BoostRule {
        let rule = |decay| BoostRule {
            factor: self.boost,
            decay,
            cap: self.boost,
        };
        match boost {
            LrBoost::Keep => rule(None),
            LrBoost::Decay => rule(Some(self.boost_decay)),
            LrBoost::Flat => BoostRule::FLAT,
        }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`ExperimentError::Config`] naming the option at fault and what to do.
    pub fn validate(&self) -> Result<()> {
        self.check_shape()?;
        self.check_numbers()?;
        self.check_lists()?;
        self.costs.validate()
    }

    fn check_shape(&self) -> Result<()> {
        let s = &self.shape;
        let fail = |option, why: String| Err(ExperimentError::config(option, why));
        if s.heads == 0 || !s.hidden.is_multiple_of(s.heads * 2) {
            let why = format!("{} doesn't cut a width of {} into even parts", s.heads, s.hidden);
            return fail("--heads", why);
        }
        if !(2..=64).contains(&s.stages) {
            return fail("--stages", format!("{} is outside 2 to 64", s.stages));
        }
        if s.stages < 4 && self.methods.iter().any(|m| m.swaps()) {
            let why = format!(
                "{} are too few to swap; use at least 4, or leave out checkfree+ and none:swap",
                s.stages
            );
            return fail("--stages", why);
        }
        if s.micro_batches == 0 || !s.micro_batches.is_multiple_of(2) {
            let why = format!(
                "{} is odd; half of them are swapped, use an even number",
                s.micro_batches
            );
            return fail("--micro-batches", why);
        }
        let sizes = [
            ("--blocks-per-stage", s.blocks_per_stage),
            ("--seq-len", s.seq_len),
            ("--micro-batch", s.micro_batch),
            ("--eval-sequences", self.eval_sequences),
        ];
        match sizes.iter().find(|(_, n)| !(1..=1 << 16).contains(n)) {
            Some((option, n)) => fail(option, format!("{n} is outside 1 to 65536")),
            None => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<()> {
        let fail = |option, why: &str| Err(ExperimentError::config(option, why));
        if !(1..=1_000_000).contains(&self.steps) || !(1..=self.steps).contains(&self.eval_every) {
            return fail(
                "--steps",
                "steps are 1 to 1000000, and at least --eval-every, which is at least 1",
            );
        }
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return fail("--lr", "a learning rate is a positive number");
        }
        if !(self.target_share > 0.0 && self.target_share <= 1.0) {
            return fail("--target-share", "a share is above 0 and at most 1");
        }
        if !(self.longest >= 1.0 && self.longest <= 1000.0) {
            return fail("--longest", "a run has 1 to 1000 times --steps iterations");
        }
        if !(self.boost >= 1.0 && self.boost <= 10.0) || self.boost_decay == 0 {
            return fail("--boost", "the factor is 1 to 10 and decays in at least one step");
        }
        Ok(())
    }

    fn check_lists(&self) -> Result<()> {
        if let Some(rate) = self.rates.iter().find(|r| !(**r > 0.0 && **r < 1.0)) {
            let why = format!("{rate} is no probability between 0 and 1 (both excluded)");
            return Err(ExperimentError::config("--rates", why));
        }
        let lists = [
            ("--seeds", self.seeds.len()),
            ("--rates", self.rates.len()),
            ("--methods", self.methods.len()),
        ];
        match lists.iter().find(|(_, n)| *n == 0) {
            Some((option, _)) => Err(ExperimentError::config(option, "at least one is needed")),
            None => Ok(()),
        }
    }
}
