//! What of a saved step's time is whose: the hashes that the update makes, the writing, the hashes that the writer makes.
//!
//! Every case trains; what they differ in is whether updates make digests and whether the state is saved. The update is timed apart.

use std::path::Path;
use std::time::Instant;

use rekindle_checkpoint::Writer;

use super::measure::{cpu_seconds, median, quantile};
use super::options::Options;
use super::state::{clean, durable, local};
use super::training::Loop;
use super::{Error, LONG};

/// A case: its name, whether updates make digests, whether every step is saved, whether the writer makes digests that are missing.
type Case = (&'static str, bool, bool, bool);

const CASES: [Case; 5] = [
    ("nothing", false, false, false),
    ("hashes alone", true, false, false),
    ("saved, no hashes at all", false, true, false),
    ("saved, hashes by the update", true, true, false),
    ("saved, hashes by the writer", false, true, true),
];

/// Of a step: seconds on the clock and of the processor, of its gradients and of its update.
type Seconds = [f64; 4];

pub fn parts(options: &Options) -> Result<(), Error> {
    let (rounds, steps) = (options.get("rounds", 9), options.get("steps", 6));
    let folder = options.folder()?;
    let mut training = Loop::new(options)?;
    let mut seen: [Vec<Seconds>; 5] = Default::default();
    for round in 0..=rounds {
        for at in 0..CASES.len() {
            // Another one first in every round.
            let case = (at + round as usize) % CASES.len();
            let all = run(&mut training, options, folder.path(), steps, CASES[case])?;
            // The first round warms up.
            if round > 0 {
                seen[case].extend(all);
            }
        }
    }
    println!(
        "\n### Where a saved step's time goes: {rounds} rounds of {steps} steps of each case, ms (clock: median; processor: mean)\n"
    );
    println!(
        "| case | step, clock | step, processor | to nothing | update, clock (lowest) | update, processor |"
    );
    println!("|---|---|---|---|---|---|");
    let base = mean(&seen[0], |s| s[1] + s[3]);
    for ((name, ..), all) in CASES.iter().zip(&seen) {
        let column = |of: fn(&Seconds) -> f64| all.iter().map(of).collect::<Vec<f64>>();
        let updates = column(|s| s[2]);
        let step = mean(all, |s| s[1] + s[3]);
        println!(
            "| {name} | {:.1} | {:.1} | {:+.1} | {:.2} ({:.2}) | {:.2} |",
            median(&column(|s| s[0] + s[2])) * 1e3,
            step * 1e3,
            (step - base) * 1e3,
            median(&updates) * 1e3,
            quantile(&updates, 0.0) * 1e3,
            mean(all, |s| s[3]) * 1e3,
        );
    }
    Ok(())
}

fn mean(all: &[Seconds], of: fn(&Seconds) -> f64) -> f64 {
    all.iter().map(of).sum::<f64>() / all.len().max(1) as f64
}

fn run(
    training: &mut Loop,
    options: &Options,
    folder: &Path,
    steps: u64,
    (_, by_update, saved, by_writer): Case,
) -> Result<Vec<Seconds>, Error> {
    let writer = Writer::start(local(folder)?, options.writer())?;
    training.stage.set_hashing(by_update);
    let mut all = Vec::new();
    // One step more, which nothing is written beside.
    for step in 0..=steps {
        let mut now = [0.0; 4];
        let (began, cpu) = (Instant::now(), cpu_seconds());
        training.gradients()?;
        (now[0], now[1]) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let (began, cpu) = (Instant::now(), cpu_seconds());
        training.update()?;
        (now[2], now[3]) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        if saved && !writer.wait_for_room(LONG) {
            return Err("there was no room in the queue".into());
        }
        if saved {
            training.save(&writer, !by_writer)?;
        }
        if step > 0 {
            all.push(now);
        }
    }
    training.stage.set_hashing(false);
    durable(writer.finish(LONG))?;
    clean(folder)?;
    Ok(all)
}
