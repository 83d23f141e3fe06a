//! Rows of the table: runs of one rate and method, over their seeds.

use serde::Serialize;

use crate::cost::Usage;
use crate::method::{Control, Method};
use crate::pipeline::Place;
use crate::results::{FailureRecord, Outcome, Results, RunResult};

/// Mean and range of a number over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many.
    pub count: usize,
}

impl Spread {
    /// None of no numbers.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let count = values.len();
        (count > 0).then(|| Self {
            mean: values.iter().sum::<f64>() / count as f64,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            count,
        })
    }
}

/// One rate and method. Ratios are taken seed by seed, to the undisturbed run of the same seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The probability that one stage is lost in one iteration.
    pub rate: f64,
    /// The method.
    pub method: Method,
    /// What the table calls it.
    pub title: String,
    /// Whether the result is that of the undisturbed run, bit for bit; checked.
    pub exact: bool,
    /// Runs.
    pub runs: usize,
    /// Why runs ended early.
    pub refused: Vec<String>,
    /// Held-out loss after all steps, of the runs that committed them.
    pub final_loss: Option<Spread>,
    /// Iterations until the target, of the runs that met it.
    pub iterations: Option<Spread>,
    /// The same, relative to the undisturbed run.
    pub iterations_ratio: Option<Spread>,
    /// Seconds until the target, measured and modelled (see `CostModel`).
    pub seconds: Option<Spread>,
    /// The same, relative to the undisturbed run.
    pub seconds_ratio: Option<Spread>,
    /// Stages lost until all steps were committed.
    pub stages_lost: Option<Spread>,
    /// Steps that had been committed before and were run again, until all were committed.
    pub steps_again: Option<Spread>,
    /// Rise of the held-out loss by a recovery.
    pub jump: Option<Spread>,
    /// Where the first block stage was lost.
    pub jump_first_stage: Option<Spread>,
    /// In the first third of the steps.
    pub jump_first_third: Option<Spread>,
    /// In the last third.
    pub jump_last_third: Option<Spread>,
}

/// All rows for which there are runs, by rate, in the order of the methods.
pub fn rows(results: &Results) -> Vec<Row> {
    let methods = &results.config.methods;
    let rates = results.config.rates.iter();
    rates
        .flat_map(|&rate| {
            methods
                .iter()
                .filter_map(move |&method| row(results, rate, method))
        })
        .collect()
}

fn row(results: &Results, rate: f64, method: Method) -> Option<Row> {
    let wanted = (!method.is_undisturbed()).then_some(rate);
    let runs: Vec<&RunResult> = results
        .runs
        .iter()
        .filter(|r| r.method == method && r.rate == wanted)
        .collect();
    if runs.is_empty() {
        return None;
    }
    let (steps, of) = (results.config.steps, |f: &dyn Fn(&RunResult) -> Option<f64>| {
        Spread::of(runs.iter().filter_map(|r| f(r)))
    });
    let seconds = |r: &RunResult, usage: &Usage| {
        let (costs, each) = (&results.config.costs, results.config.shape.micro_batches);
        costs.steps(r.method, usage, r.mean_step_seconds(), each) * results.step_time.median
    };
    let iterations = |r: &RunResult| r.at_target.map(|u| u.iterations as f64);
    let time = |r: &RunResult| r.at_target.map(|u| seconds(r, &u));
    let ratio = |f: &dyn Fn(&RunResult) -> Option<f64>| {
        of(&|r| Some(f(r)? / reference(results, r.seed).and_then(f)?))
    };
    Some(Row {
        rate,
        method,
        title: method.title(),
        exact: method.is_exact(),
        runs: runs.len(),
        refused: refusals(&runs),
        final_loss: of(&|r| r.loss_at(steps)),
        iterations: of(&iterations),
        iterations_ratio: ratio(&iterations),
        seconds: of(&time),
        seconds_ratio: ratio(&time),
        stages_lost: of(&|r| Some(r.at_end.stages_lost as f64)),
        steps_again: of(&|r| Some(r.at_end.steps_again as f64)),
        jump: jumps(&runs, |_| true),
        jump_first_stage: jumps(&runs, |f| f.places.contains(&Place::Blocks(0))),
        jump_first_third: jumps(&runs, |f| f.committed < steps / 3),
        jump_last_third: jumps(&runs, |f| (steps - steps / 3..steps).contains(&f.committed)),
    })
}

fn reference(results: &Results, seed: u64) -> Option<&RunResult> {
    let plain = Method::Undisturbed(Control::Plain);
    results.runs.iter().find(|r| r.method == plain && r.seed == seed)
}

fn refusals(runs: &[&RunResult]) -> Vec<String> {
    let reason = |r: &&RunResult| match &r.outcome {
        Outcome::Refused { reason } => Some(format!("seed {}: {reason}", r.seed)),
        _ => None,
    };
    runs.iter().filter_map(reason).collect()
}

fn jumps(runs: &[&RunResult], wanted: impl Fn(&FailureRecord) -> bool) -> Option<Spread> {
    let failures = runs.iter().flat_map(|r| &r.failures);
    Spread::of(failures.filter(|f| wanted(f)).filter_map(FailureRecord::jump))
}
