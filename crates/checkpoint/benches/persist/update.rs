//! The update alone, with and without hashes, in place and into spare memory (as it is while the state before it is
//! held).

use std::time::Instant;

use super::Error;
use super::measure::{cpu_seconds, median, quantile};
use super::options::Options;
use super::training::Loop;

/// A case: its name, whether the state before is held, whether digests are made.
const CASES: [(&str, bool, bool); 4] = [
    ("in place", false, false),
    ("in place, hashed", false, true),
    ("out of place", true, false),
    ("out of place, hashed", true, true),
];

pub fn update(options: &Options) -> Result<(), Error> {
    let rounds = options.get("rounds", 30);
    let mut training = Loop::new(options)?;
    training.stage.reserve_whole()?;
    training.gradients()?;
    let mut clock: [Vec<f64>; 4] = Default::default();
    let mut processor: [Vec<f64>; 4] = Default::default();
    for round in 0..=rounds {
        for at in 0..CASES.len() {
            // Another one first in every round.
            let case = (at + round as usize) % CASES.len();
            let (_, held, hashed) = CASES[case];
            training.stage.set_hashing(hashed);
            let held = held.then(|| training.stage.freeze_state()).transpose()?;
            let (began, cpu) = (Instant::now(), cpu_seconds());
            training.update()?;
            let seconds = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
            drop(held);
            // The first round warms up.
            if round > 0 {
                clock[case].push(seconds.0);
                processor[case].push(seconds.1);
            }
        }
    }
    println!(
        "\n### An update of {:.1} million parameters, 2 threads, {rounds} rounds, ms\n",
        training.model.parameters() as f64 / 1e6
    );
    println!("| case | clock: lowest, median | processor: lowest, quarter, median |");
    println!("|---|---|---|");
    for (n, (name, ..)) in CASES.iter().enumerate() {
        println!(
            "| {name} | {:.2}, {:.2} | {:.2}, {:.2}, {:.2} |",
            quantile(&clock[n], 0.0) * 1e3,
            median(&clock[n]) * 1e3,
            quantile(&processor[n], 0.0) * 1e3,
            quantile(&processor[n], 0.25) * 1e3,
            median(&processor[n]) * 1e3,
        );
    }
    Ok(())
}
