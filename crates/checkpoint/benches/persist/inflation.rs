//! Steps of a training loop with a capture at every one, beside steps without.

use std::path::Path;
use std::time::Instant;

use rekindle_checkpoint::{Outcome, Writer};

use super::measure::{Runs, Whereabouts, median, quantile, thread_seconds};
use super::options::Options;
use super::state::{clean, local};
use super::training::{Loop, SEQ_LEN, SEQUENCES};
use super::{Error, LONG, MIB};

#[derive(Default)]
struct Saved {
    room: Vec<f64>,
    begin: Vec<f64>,
    /// Of them: on the processor, and waiting for one.
    begin_runs: Vec<f64>,
    begin_waits: Vec<f64>,
    wait: Vec<f64>,
    writer_cpu: f64,
    persist: Vec<f64>,
}

pub fn inflation(options: &Options) -> Result<(), Error> {
    let (rounds, steps) = (options.get("rounds", 9), options.get("steps", 12));
    let folder = options.folder()?;
    let mut training = Loop::new(options)?;
    let bytes = 12.0 * training.model.parameters() as f64;
    let mut plain = Runs::default();
    let mut saving = Runs::default();
    let mut saved = Saved::default();
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        let keep = round > 0;
        let from = (plain.seconds.len(), saving.seconds.len());
        // In every other round the other one first.
        for save in [round % 2 == 0, round % 2 != 0] {
            if save {
                saving_block(
                    &mut training,
                    options,
                    folder.path(),
                    steps,
                    keep,
                    &mut saving,
                    &mut saved,
                )?;
                clean(folder.path())?;
            } else {
                for _ in 0..steps {
                    plain.time(keep, || training.train())?;
                }
            }
        }
        if keep {
            ratios.push(median(&saving.seconds[from.1..]) / median(&plain.seconds[from.0..]) - 1.0);
        }
    }
    let saves = saving.seconds.len() as f64;
    let ms = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
    let percent = |part: f64| format!("{:+.2} %", part * 1e2);
    let total = |runs: &Runs| runs.cpu.iter().sum::<f64>() / runs.cpu.len() as f64;
    println!(
        "\n### A step with a capture at every step against none: hidden 512, {} layers, {SEQUENCES} x {SEQ_LEN} tokens, 2 threads, \
         {rounds} rounds of {steps} steps each, pool {} MiB\n",
        training.model.num_hidden_layers,
        options.get("pool", 256),
    );
    let rows = [
        (
            "step without, p50 / p99",
            format!(
                "{} / {}",
                ms(median(&plain.seconds)),
                ms(quantile(&plain.seconds, 0.99))
            ),
        ),
        (
            "step with, p50 / p99",
            format!(
                "{} / {}",
                ms(median(&saving.seconds)),
                ms(quantile(&saving.seconds, 0.99))
            ),
        ),
        (
            "inflation of p50, of all steps",
            percent(median(&saving.seconds) / median(&plain.seconds) - 1.0),
        ),
        (
            "inflation of p50, by round: median (spread)",
            format!(
                "{} ({} to {})",
                percent(median(&ratios)),
                percent(quantile(&ratios, 0.0)),
                percent(quantile(&ratios, 1.0))
            ),
        ),
        (
            "inflation of p99",
            percent(quantile(&saving.seconds, 0.99) / quantile(&plain.seconds, 0.99) - 1.0),
        ),
        (
            "freeze and begin, p50 / max",
            format!(
                "{} / {}",
                ms(median(&saved.begin)),
                ms(quantile(&saved.begin, 1.0))
            ),
        ),
        (
            "of it on the processor, p50 / max; waiting for one, p50 / max",
            format!(
                "{} / {}; {} / {}",
                ms(median(&saved.begin_runs)),
                ms(quantile(&saved.begin_runs, 1.0)),
                ms(median(&saved.begin_waits)),
                ms(quantile(&saved.begin_waits, 1.0))
            ),
        ),
        (
            "waiting for room in the queue, p50 / max",
            format!("{} / {}", ms(median(&saved.room)), ms(quantile(&saved.room, 1.0))),
        ),
        (
            "waiting in updates, p50 / max",
            format!("{} / {}", ms(median(&saved.wait)), ms(quantile(&saved.wait, 1.0))),
        ),
        ("bytes of a save", format!("{:.0} MiB", bytes / MIB)),
        (
            "from capture to durable, p50 / max",
            format!(
                "{} / {}",
                ms(median(&saved.persist)),
                ms(quantile(&saved.persist, 1.0))
            ),
        ),
        (
            "processor time of the writing threads, a save",
            ms(saved.writer_cpu / saves),
        ),
        (
            "processor time of the process, a step: without / with",
            format!("{} / {}", ms(total(&plain)), ms(total(&saving))),
        ),
    ];
    println!("| what | value |\n|---|---|");
    for (what, value) in rows {
        println!("| {what} | {value} |");
    }
    Ok(())
}

fn saving_block(
    training: &mut Loop,
    options: &Options,
    folder: &Path,
    steps: u64,
    keep: bool,
    saving: &mut Runs,
    saved: &mut Saved,
) -> Result<(), Error> {
    let writer = Writer::start(local(folder)?, options.writer())?;
    training.stage.set_hashing(options.get("hash-in-update", 1) > 0);
    training.save(&writer, false)?;
    training.stage.take_update_wait();
    for _ in 0..steps {
        let (mut room, mut begin, mut spent) = (0.0, 0.0, Whereabouts::default());
        saving.time(keep, || {
            training.train()?;
            let began = Instant::now();
            if !writer.wait_for_room(LONG) {
                return Err("there was no room in the queue".into());
            }
            room = began.elapsed().as_secs_f64();
            let (before, began) = (Whereabouts::now(), Instant::now());
            training.save(&writer, false)?;
            begin = began.elapsed().as_secs_f64();
            spent = Whereabouts::since(&before);
            Ok(())
        })?;
        let wait = training.stage.take_update_wait().as_secs_f64();
        if keep {
            saved.room.push(room);
            saved.begin.push(begin);
            saved.begin_runs.push(spent.runs);
            saved.begin_waits.push(spent.waits);
            saved.wait.push(wait);
        }
    }
    training.stage.set_hashing(false);
    for outcome in writer.finish(LONG) {
        match outcome {
            Outcome::Durable(part) if keep => saved.persist.push(part.persist_seconds),
            Outcome::Durable(_) => {}
            Outcome::Failed { error, .. } => return Err(error.into()),
        }
    }
    if keep {
        // One save more than steps: the first one, before them.
        saved.writer_cpu += thread_seconds("checkpoint-") * steps as f64 / (steps + 1) as f64;
    }
    Ok(())
}
