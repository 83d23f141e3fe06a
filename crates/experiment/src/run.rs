//! One run: a seed, a method, a trace.
//!
//! ```text
//! each iteration:  a failure?  some micro-batches are run and dropped, the stages' state is destroyed, the method brings it back
//!                  then a step: tokens -> gradients -> norms -> [guards] -> update -> committed -> [checkpoint] -> evaluation
//! ```
//!
//! A run ends when all steps are committed and the target loss was met, or when its iterations are used up.

use std::time::Instant;

use crate::config::Config;
use crate::cost::Usage;
use crate::error::{ExperimentError, Result};
use crate::method::{Control, Method};
use crate::pipeline::{MicroBatch, Pipeline};
use crate::recovery::{self, Loss, Recovery, Update};
use crate::results::{FailureRecord, Outcome, Point, RunResult};
use crate::text::Text;
use crate::trace::{Failure, Trace};
use rekindle_plan::average::BoostRule;

/// What is run.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The experiment.
    pub config: &'a Config,
    /// What is trained on.
    pub text: &'a Text,
    /// What is evaluated on.
    pub held_out: &'a [MicroBatch],
    /// Seed of weights and samples.
    pub seed: u64,
    /// The rate that the trace was drawn with, for the record.
    pub rate: Option<f64>,
    /// The method.
    pub method: Method,
    /// What is lost when.
    pub trace: &'a Trace,
    /// A held-out loss to go on for.
    pub target: Option<f64>,
}

struct Driver<'a> {
    setting: Setting<'a>,
    pipeline: Pipeline,
    recovery: Box<dyn Recovery>,
    committed: u64,
    highest: u64,
    usage: Usage,
    result: RunResult,
}

/// Makes the run.
///
/// # Errors
/// When a device fails, or an exact method isn't. What a lossy method refuses is an [`Outcome`], no error.
pub fn drive(setting: Setting<'_>) -> Result<RunResult> {
    let mut driver = Driver::new(setting)?;
    match driver.iterate() {
        Err(error) if error.ends_the_run_only() => {
            let reason = error.to_string();
            driver.result.outcome = Outcome::Refused { reason };
        }
        other => other?,
    }
    Ok(driver.finish())
}

impl<'a> Driver<'a> {
    fn new(setting: Setting<'a>) -> Result<Self> {
        let config = setting.config;
        let boost = match setting.method {
            Method::Neighbour(n) => config.boost_rule(n.boost),
            _ => BoostRule::FLAT,
        };
        Ok(Self {
            pipeline: Pipeline::new(&config.shape, setting.seed, config.threads, boost)?,
            recovery: recovery::of(setting.method),
            committed: 0,
            highest: 0,
            usage: Usage::default(),
            result: RunResult {
                method: setting.method,
                rate: setting.rate,
                seed: setting.seed,
                outcome: Outcome::OutOfIterations,
                points: Vec::new(),
                training_loss: Vec::new(),
                failures: Vec::new(),
                digest: None,
                at_target: None,
                at_end: Usage::default(),
                compute_seconds: 0.0,
                step_seconds: Vec::new(),
                digests: Vec::new(),
            },
            setting,
        })
    }

    fn iterate(&mut self) -> Result<()> {
        self.committed_step()?;
        while !self.is_done() && self.usage.iterations < self.setting.config.most_iterations() {
            let undisturbed = self.setting.method.is_undisturbed();
            let trace = self.setting.trace;
            if let Some(failure) = trace.at(self.usage.iterations + 1).filter(|_| !undisturbed) {
                self.fail(failure)?;
            }
            self.step()?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let all = self.highest >= self.setting.config.steps;
        all && (self.setting.target.is_none() || self.result.at_target.is_some())
    }

    fn finish(mut self) -> RunResult {
        if self.highest < self.setting.config.steps {
            self.result.at_end = self.usage;
        } else if self.result.outcome == Outcome::OutOfIterations {
            self.result.outcome = Outcome::Finished;
        }
        self.result.compute_seconds = self.result.step_seconds.iter().sum();
        self.result
    }

    fn batch(&self) -> Result<Vec<MicroBatch>> {
        let Setting {
            config, text, seed, ..
        } = self.setting;
        text.batch(seed, self.committed + 1, &config.shape)
    }

    fn step(&mut self) -> Result<()> {
        let (batch, step) = (self.batch()?, self.committed + 1);
        let start = Instant::now();
        let loss = self
            .pipeline
            .forward_backward(&batch, self.setting.method.swaps())?;
        let norms = self.pipeline.norms()?;
        let (Some(loss), true) = (loss, norms.finite) else {
            return Err(ExperimentError::NonFinite { step });
        };
        let gradients = start.elapsed();
        let update = self.update_of(norms.model);
        self.recovery
            .before_update(&self.pipeline, update, &mut self.usage)?;
        let start = Instant::now();
        self.pipeline.update(update.lr, update.clip)?;
        let seconds = (gradients + start.elapsed()).as_secs_f64();
        self.result.step_seconds.push(seconds);
        self.result
            .training_loss
            .push(loss.mean_loss(self.setting.config.shape.tokens()));
        self.committed = step;
        self.usage.iterations += 1;
        self.usage.steps_again += u64::from(step <= self.highest);
        self.committed_step()
    }

    fn update_of(&self, norm: f64) -> Update {
        let config = self.setting.config;
        let boosted = self.setting.method == Method::Undisturbed(Control::Boosted);
        Update {
            lr: config.lr * if boosted { config.boost } else { 1.0 },
            // As trainers clip: over the whole model, so that the stages' norms keep their proportions.
            clip: (config.max_grad_norm / (norm + 1e-6)).min(1.0),
        }
    }

    /// What follows a commit; step 0 are the first weights.
    fn committed_step(&mut self) -> Result<()> {
        self.recovery
            .committed(&self.pipeline, self.committed, &mut self.usage)?;
        self.check_digest()?;
        if self.committed > self.highest {
            self.highest = self.committed;
            self.new_step()?;
        }
        Ok(())
    }

    fn new_step(&mut self) -> Result<()> {
        let (config, step) = (self.setting.config, self.committed);
        if step.is_multiple_of(config.eval_every) || step == config.steps {
            let loss = self.pipeline.evaluate(self.setting.held_out)?;
            let usage = self.usage;
            self.result.points.push(Point { step, loss, usage });
            if self.setting.target.is_some_and(|target| loss <= target) {
                self.result.at_target.get_or_insert(usage);
            }
        }
        if step == config.steps {
            self.result.digest = Some(self.pipeline.digest()?);
            self.result.at_end = self.usage;
        }
        Ok(())
    }

    /// An exact method that comes to a step again, after going back or by rebuilding, finds the state it had there.
    fn check_digest(&mut self) -> Result<()> {
        let method = self.setting.method;
        if !method.is_exact() && method != Method::Undisturbed(Control::Plain) {
            return Ok(());
        }
        let (have, step) = (self.pipeline.digest()?, self.committed);
        match self.result.digests.get(step as usize) {
            None => self.result.digests.push(have),
            Some(&want) if want == have => {}
            Some(&want) => {
                return Err(ExperimentError::Inexact {
                    method: method.to_string(),
                    step,
                    have,
                    want,
                });
            }
        }
        Ok(())
    }

    fn fail(&mut self, failure: &Failure) -> Result<()> {
        let batch = self.batch()?;
        let loss_before = self.lossy_loss()?;
        self.cut_short(failure, &batch)?;
        let loss = Loss {
            places: &failure.places,
            committed: self.committed,
            cached: &batch[..1],
            seed: self.setting.seed,
            iteration: failure.iteration,
        };
        let recovered = self
            .recovery
            .recover(&mut self.pipeline, &loss, &mut self.usage)?;
        if let Some(dead) = self.pipeline.members().iter().find(|m| !m.alive) {
            return Err(ExperimentError::Dead { place: dead.place });
        }
        let committed = std::mem::replace(&mut self.committed, recovered.step);
        self.check_digest()?;
        let loss_after = self.lossy_loss()?;
        self.result.failures.push(FailureRecord {
            iteration: failure.iteration,
            committed,
            back_at: recovered.step,
            places: failure.places.clone(),
            rebuilt: recovered.rebuilt,
            loss_before,
            loss_after,
        });
        Ok(())
    }

    /// Runs the micro-batches that were done when the failure struck, drops them, and destroys the lost stages.
    fn cut_short(&mut self, failure: &Failure, batch: &[MicroBatch]) -> Result<()> {
        let done = (failure.after_micro_batches as usize).min(batch.len());
        self.pipeline
            .forward_backward(&batch[..done], self.setting.method.swaps())?;
        self.pipeline.abandon()?;
        for &place in &failure.places {
            self.pipeline.lose(place)?;
        }
        self.usage.failures += 1;
        self.usage.stages_lost += failure.places.len() as u64;
        self.usage.dropped_micro_batches += done as u64;
        Ok(())
    }

    fn lossy_loss(&mut self) -> Result<Option<f64>> {
        if self.setting.method.is_exact() {
            return Ok(None);
        }
        self.pipeline.evaluate(self.setting.held_out).map(Some)
    }
}
