//! What of a saved step's time is whose: the hashes that the update makes, the disk's work, the writer's, the hashes
//! that the writer makes.
//!
//! Every case trains; what they differ in is whether updates make digests and whether the state is saved. The update
//! is timed apart.

use std::path::Path;
use std::time::Instant;

use rekindle_checkpoint::Writer;

use super::bystander::Bystander;
use super::measure::{cpu_seconds, median, quantile};
use super::options::Options;
use super::state::{clean, durable, local, state};
use super::training::Loop;
use super::{Error, LONG};

/// What is written beside the steps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Nothing,
    /// As many bytes, by a thread that knows nothing of the training.
    AsMany,
    /// The state, without digests that the update didn't make.
    State,
    /// The state, and the writer makes digests that are missing.
    Checked,
}

/// A case: its name, whether updates make digests, what is written.
type Case = (&'static str, bool, Writes);

const CASES: [Case; 7] = [
    ("nothing", false, Writes::Nothing),
    ("hashes alone", true, Writes::Nothing),
    ("another thread writes as many bytes", false, Writes::AsMany),
    ("the same, and hashes", true, Writes::AsMany),
    ("saved, no hashes at all", false, Writes::State),
    ("saved, hashes by the update", true, Writes::State),
    ("saved, hashes by the writer", false, Writes::Checked),
];

/// Of a step: seconds on the clock and of the processor, of its gradients and of its update.
type Seconds = [f64; 4];

pub fn parts(options: &Options) -> Result<(), Error> {
    let (rounds, steps) = (options.get("rounds", 9), options.get("steps", 6));
    let folder = options.folder()?;
    let mut training = Loop::new(options)?;
    let mut seen: [Vec<Seconds>; CASES.len()] = Default::default();
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
    (_, by_update, writes): Case,
) -> Result<Vec<Seconds>, Error> {
    let writer = Writer::start(local(folder)?, options.writer())?;
    let bytes = match writes {
        Writes::AsMany => state(&training.model)?,
        _ => Vec::new(),
    };
    let bystander = Bystander::start(bytes, folder)?;
    training.stage.set_hashing(by_update);
    let mut all = Vec::new();
    // One step more, which nothing is written beside.
    for step in 0..=steps {
        let now = timed(training)?;
        match writes {
            Writes::Nothing => {}
            Writes::AsMany => bystander.write()?,
            Writes::State | Writes::Checked => {
                if !writer.wait_for_room(LONG) {
                    return Err("there was no room in the queue".into());
                }
                training.save(&writer, writes == Writes::State)?;
            }
        }
        if step > 0 {
            all.push(now);
        }
    }
    training.stage.set_hashing(false);
    bystander.finish()?;
    durable(writer.finish(LONG))?;
    clean(folder)?;
    Ok(all)
}

fn timed(training: &mut Loop) -> Result<Seconds, Error> {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    training.gradients()?;
    let gradients = [began.elapsed().as_secs_f64(), cpu_seconds() - cpu];
    let (began, cpu) = (Instant::now(), cpu_seconds());
    training.update()?;
    let update = [began.elapsed().as_secs_f64(), cpu_seconds() - cpu];
    Ok([gradients[0], gradients[1], update[0], update[1]])
}
