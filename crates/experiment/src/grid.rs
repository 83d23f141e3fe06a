//! All runs of an experiment, one after another.

use crate::config::Config;
use crate::error::{ExperimentError, Result};
use crate::machine::Machine;
use crate::method::{Control, Method};
use crate::pipeline::MicroBatch;
use crate::results::{Outcome, Point, Results, RunResult, StepTime, TextFacts};
use crate::run::{Setting, drive};
use crate::summary;
use crate::text::Text;
use crate::trace::Trace;

/// Where an experiment stands: called after every run, whose result is the last of `results`.
pub struct Progress<'a> {
    /// Everything so far.
    pub results: &'a Results,
    /// How many runs there will be.
    pub planned: usize,
}

/// Makes all runs. `inputs` names the text, for the record. `observe` may stop the experiment with an error.
///
/// # Errors
/// A config that can't be used, a device that fails, an exact method that isn't, or what `observe` returns.
pub fn run(
    config: &Config,
    text: &Text,
    inputs: &[String],
    observe: &mut dyn FnMut(&Progress<'_>) -> Result<()>,
) -> Result<Results> {
    config.validate()?;
    let mut grid = Grid {
        held_out: text.held_out(config.eval_sequences, &config.shape)?,
        planned: planned(config),
        results: empty(config, text, inputs),
        config,
        text,
        observe,
    };
    for &seed in &config.seeds {
        grid.seed(seed)?;
    }
    Ok(grid.results)
}

struct Grid<'a> {
    config: &'a Config,
    text: &'a Text,
    held_out: Vec<MicroBatch>,
    planned: usize,
    results: Results,
    observe: &'a mut dyn FnMut(&Progress<'_>) -> Result<()>,
}

/// The undisturbed run that the others of its seed are compared with.
struct Reference {
    run: RunResult,
    target: f64,
}

impl Grid<'_> {
    fn seed(&mut self, seed: u64) -> Result<()> {
        let reference = self.reference(seed)?;
        let controls = disturbed(self.config, false);
        for &method in controls.iter().filter(|m| **m != PLAIN) {
            self.method(seed, None, method, &Trace::default(), &reference)?;
        }
        for &rate in &self.config.rates {
            let shape = &self.config.shape;
            let (stages, micro_batches) = (shape.stages, shape.micro_batches);
            let most = self.config.most_iterations();
            let trace = Trace::draw(seed, rate, self.config.failing, stages, micro_batches, most);
            self.results.left_out += trace.left_out();
            for method in disturbed(self.config, true) {
                self.method(seed, Some(rate), method, &trace, &reference)?;
            }
        }
        Ok(())
    }

    fn setting<'a>(&'a self, seed: u64, method: Method, trace: &'a Trace) -> Setting<'a> {
        Setting {
            config: self.config,
            text: self.text,
            held_out: &self.held_out,
            seed,
            rate: None,
            method,
            trace,
            target: None,
        }
    }

    fn reference(&mut self, seed: u64) -> Result<Reference> {
        let mut run = drive(self.setting(seed, PLAIN, &Trace::default()))?;
        if let Outcome::Refused { reason } = run.outcome {
            return Err(ExperimentError::config(
                "--lr",
                format!("the undisturbed run of seed {seed} failed: {reason}"),
            ));
        }
        let from = self.config.steps as f64 * self.config.target_share;
        let at = run.points.iter().find(|p| p.step as f64 >= from);
        let Some(&Point { loss: target, .. }) = at else {
            return Err(ExperimentError::config(
                "--eval-every",
                "no evaluation falls on the target",
            ));
        };
        // It may have been as good before.
        run.at_target = run.points.iter().find(|p| p.loss <= target).map(|p| p.usage);
        self.push(run.clone())?;
        Ok(Reference { run, target })
    }

    fn method(
        &mut self,
        seed: u64,
        rate: Option<f64>,
        method: Method,
        trace: &Trace,
        reference: &Reference,
    ) -> Result<()> {
        let run = if method == Method::Redundant {
            redundant(&reference.run, rate, trace)
        } else {
            drive(Setting {
                rate,
                target: Some(reference.target),
                ..self.setting(seed, method, trace)
            })?
        };
        check_exact(&run, &reference.run)?;
        self.push(run)
    }

    fn push(&mut self, run: RunResult) -> Result<()> {
        self.results.runs.push(run);
        self.results.step_time = StepTime::of(&self.results.runs);
        self.results.rows = summary::rows(&self.results);
        (self.observe)(&Progress {
            results: &self.results,
            planned: self.planned,
        })
    }
}

const PLAIN: Method = Method::Undisturbed(Control::Plain);

/// The methods that meet failures, or those that don't.
fn disturbed(config: &Config, yes: bool) -> Vec<Method> {
    config
        .methods
        .iter()
        .copied()
        .filter(|m| m.is_undisturbed() != yes)
        .collect()
}

fn planned(config: &Config) -> usize {
    let controls = disturbed(config, false).iter().filter(|m| **m != PLAIN).count();
    config.seeds.len() * (1 + controls + config.rates.len() * disturbed(config, true).len())
}

fn empty(config: &Config, text: &Text, inputs: &[String]) -> Results {
    Results {
        config: config.clone(),
        parameters: config.shape.model().parameters(),
        text: TextFacts {
            inputs: inputs.to_vec(),
            bytes: text.tokens(),
            training_samples: text.training_samples(),
            held_out_samples: text.held_out_samples(),
        },
        machine: Machine::here(),
        step_time: StepTime::default(),
        rows: Vec::new(),
        left_out: 0,
        runs: Vec::new(),
    }
}

/// Redundant computation loses nothing, so its trajectory is the undisturbed one; only the time differs.
fn redundant(reference: &RunResult, rate: Option<f64>, trace: &Trace) -> RunResult {
    let with_failures = |mut usage: crate::cost::Usage| {
        let met = trace.failures().take_while(|f| f.iteration <= usage.iterations);
        usage.failures = met.clone().count() as u64;
        usage.stages_lost = met.map(|f| f.places.len() as u64).sum();
        usage
    };
    let mut run = RunResult {
        method: Method::Redundant,
        rate,
        at_target: reference.at_target.map(with_failures),
        at_end: with_failures(reference.at_end),
        // Nothing was measured.
        compute_seconds: 0.0,
        step_seconds: Vec::new(),
        ..reference.clone()
    };
    for point in &mut run.points {
        point.usage = with_failures(point.usage);
    }
    run
}

/// An exact method has the state of the undisturbed run at every step that both committed.
fn check_exact(run: &RunResult, reference: &RunResult) -> Result<()> {
    if !run.method.is_exact() {
        return Ok(());
    }
    let both = run.digests.iter().zip(&reference.digests);
    match (0..).zip(both).find(|(_, (have, want))| have != want) {
        Some((step, (&have, &want))) => Err(ExperimentError::Inexact {
            method: run.method.to_string(),
            step,
            have,
            want,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rekindle_model::StateDigest;

    use super::*;

    /// EX-6: one wrong digest at any step ends the experiment, and names the step.
    #[test]
    fn a_method_that_only_calls_itself_exact_is_found_out() {
        let run = |method: &str, digests: [u128; 3]| RunResult {
            method: method.parse().unwrap(),
            rate: None,
            seed: 1,
            outcome: Outcome::Finished,
            points: Vec::new(),
            training_loss: Vec::new(),
            failures: Vec::new(),
            digest: None,
            at_target: None,
            at_end: crate::cost::Usage::default(),
            compute_seconds: 0.0,
            step_seconds: Vec::new(),
            digests: digests.map(StateDigest).to_vec(),
        };
        let reference = run("none", [1, 2, 3]);
        assert!(check_exact(&run("shadow", [1, 2, 3]), &reference).is_ok());
        assert!(check_exact(&run("copy", [1, 9, 9]), &reference).is_ok());
        let found = check_exact(&run("shadow", [1, 2, 4]), &reference);
        assert!(matches!(found, Err(ExperimentError::Inexact { step: 2, .. })));
    }
}
