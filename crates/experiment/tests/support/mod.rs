//! A tiny experiment on the project's own text.
#![allow(dead_code, missing_docs)]

use rekindle_experiment::{
    Config, Failure, Method, MicroBatch, Outcome, Place, Point, RunResult, Setting, Shape, Text, Trace, drive,
};

pub const STAGES: u32 = 6;

pub fn config() -> Config {
    Config {
        shape: Shape {
            hidden: 16,
            heads: 2,
            stages: STAGES,
            blocks_per_stage: 1,
            seq_len: 16,
            micro_batch: 2,
            micro_batches: 4,
        },
        seeds: vec![1],
        rates: vec![0.03],
        steps: 18,
        lr: 3e-3,
        eval_every: 3,
        eval_sequences: 8,
        ..Config::quick()
    }
}

pub fn text(config: &Config) -> Text {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ARCHITECTURE.md");
    Text::open(&[path.to_owned()], config.shape.seq_len).unwrap()
}

pub fn failure(iteration: u64, after_micro_batches: u32, places: &[Place]) -> Failure {
    Failure {
        iteration,
        after_micro_batches,
        places: places.to_vec(),
    }
}

/// One experiment's text and held-out part, to make runs with.
pub struct Bench {
    pub config: Config,
    pub text: Text,
    pub held_out: Vec<MicroBatch>,
}

impl Bench {
    pub fn new(config: Config) -> Self {
        let text = text(&config);
        let held_out = text.held_out(config.eval_sequences, &config.shape).unwrap();
        Self {
            config,
            text,
            held_out,
        }
    }

    pub fn run(&self, method: &str, failures: &[Failure]) -> RunResult {
        let trace = Trace::new(self.config.shape.stages, failures.to_vec()).unwrap();
        self.run_on(method, &trace)
    }

    pub fn run_on(&self, method: &str, trace: &Trace) -> RunResult {
        let method: Method = method.parse().unwrap();
        drive(Setting {
            config: &self.config,
            text: &self.text,
            held_out: &self.held_out,
            seed: 1,
            rate: Some(0.03),
            method,
            trace,
            target: None,
        })
        .unwrap()
    }
}

/// What doesn't depend on the clock: steps and losses.
pub fn losses(points: &[Point]) -> Vec<(u64, f64)> {
    points.iter().map(|p| (p.step, p.loss)).collect()
}

pub fn refusal(run: &RunResult) -> &str {
    match &run.outcome {
        Outcome::Refused { reason } => reason,
        other => panic!("{other:?} is no refusal"),
    }
}
