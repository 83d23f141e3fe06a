//! Steps of a training loop with a capture at every one, beside steps without.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rekindle_checkpoint::{Held, HeldPart, Outcome, Span, Writer};
use rekindle_compute::{Cpu, Frozen};
use rekindle_model::{AdamW, FrozenPart, Philox, Stage, StageInput, StageSpec};
use rekindle_types::{ModelConfig, Numerics, Recompute};

use super::measure::{Runs, median, quantile, thread_seconds};
use super::options::Options;
use super::state::{capture, clean, local, model};
use super::{Error, LONG, MIB};

struct HeldState<F>(F);

impl<F: Frozen> Held for HeldState<F> {
    fn bytes(&self) -> Result<&[u8], String> {
        self.0.bytes().map_err(|e| e.to_string())
    }
}

/// A training loop of `../shared/peers/torch_checkpoint.py`'s shape.
struct Loop {
    stage: Stage<Cpu<f32>>,
    model: Arc<ModelConfig>,
    tokens: Vec<u32>,
    step: u64,
}

const SEQUENCES: u32 = 8;
const SEQ_LEN: u32 = 128;

impl Loop {
    fn new(options: &Options) -> Result<Self, Error> {
        let model = model(512, options.get("layers", 8) as u32);
        let spec = StageSpec {
            layers: 0..model.num_hidden_layers + 2,
            micro_batch: SEQUENCES,
            seq_len: SEQ_LEN,
            numerics: Numerics::Exact,
            recompute: Recompute::None,
            tokens_per_step: u64::from(SEQUENCES * SEQ_LEN),
            lane: 0,
            lanes: 1,
            optimizer: AdamW {
                betas: [0.9, 0.95],
                eps: 1e-8,
                weight_decay: 0.01,
            },
            model: model.clone(),
        };
        let mut stage = Stage::new(Arc::new(Cpu::new(2)?), spec)?;
        stage.init_weights(0)?;
        stage.reserve_for_checkpoints(options.get("pool", 256) << 20)?;
        let philox = Philox::new(1);
        let tokens = (0..SEQUENCES * SEQ_LEN + 1).map(|i| philox.words([i, 0, 0, 0])[0] % 256);
        Ok(Self {
            stage,
            model: Arc::new(model),
            tokens: tokens.collect(),
            step: 0,
        })
    }

    fn train(&mut self) -> Result<(), Error> {
        self.step += 1;
        let (inputs, targets) = (&self.tokens[..self.tokens.len() - 1], &self.tokens[1..]);
        self.stage.forward(0, StageInput::Tokens(inputs), Some(targets))?;
        self.stage.backward(0, None, &mut |_, _| {})?;
        let norm = self.stage.finish_gradients()?.sum_squares.norm();
        for layer in self.stage.layers() {
            self.stage
                .update(layer, self.step, 3e-4, (1.0 / (norm + 1e-6)).min(1.0))?;
        }
        Ok(())
    }

    fn save(&self, writer: &Writer) -> Result<(), Error> {
        let part = |part: FrozenPart<Cpu<f32>>| HeldPart {
            span: Span::new(
                part.layer,
                part.kind,
                part.range.start as u64..part.range.end as u64,
            ),
            held: Arc::new(HeldState(part.frozen)),
            digests: part.digests,
        };
        let parts = self.stage.freeze_state()?.into_iter().map(part).collect();
        writer.begin(capture(&self.model, parts, self.step))?;
        Ok(())
    }
}

#[derive(Default)]
struct Saved {
    room: Vec<f64>,
    begin: Vec<f64>,
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
    training.save(&writer)?;
    training.stage.take_update_wait();
    for _ in 0..steps {
        let (mut room, mut begin) = (0.0, 0.0);
        saving.time(keep, || {
            training.train()?;
            let began = Instant::now();
            if !writer.wait_for_room(LONG) {
                return Err("there was no room in the queue".into());
            }
            room = began.elapsed().as_secs_f64();
            training.save(&writer)?;
            begin = began.elapsed().as_secs_f64() - room;
            Ok(())
        })?;
        let wait = training.stage.take_update_wait().as_secs_f64();
        if keep {
            saved.room.push(room);
            saved.begin.push(begin);
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
