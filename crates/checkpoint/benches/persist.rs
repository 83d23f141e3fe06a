//! What saving costs: bandwidth beside plain writes of the same bytes, the size of files, and steps of a training loop.
//!
//! `cargo bench -p rekindle-checkpoint --bench persist [-- [persist] [grouping] [inflation] [--dir DIR] [--rounds N] [--steps N] [--pool MIB]
//!  [--nice N] [--group MIB] [--chunk MIB] [--threads N] [--layers N]]`; without a name, all three. Markdown comes out.
//!
//! Cases of a table run in turn in every round, so that they see the same machine; medians and the spread over rounds are printed.
//! Processor time is that of the whole process (user and system), which other load on the machine disturbs less than time on the clock.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_checkpoint::store::{Fault, Faulty, Op, open};
use rekindle_checkpoint::{Capture, Held, HeldPart, Location, Outcome, Span, Store, Writer, WriterOptions};
use rekindle_compute::{Aligned, Cpu, Frozen};
use rekindle_model::{AdamW, FrozenPart, Philox, Stage, StageInput, StageSpec};
use rekindle_types::{ModelConfig, Numerics, RankId, StateKind};

type Error = Box<dyn std::error::Error>;

const LONG: Duration = Duration::from_secs(600);
const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;
/// Bytes of a plain write.
const PLAIN_CHUNK: usize = 16 << 20;

struct Options {
    names: Vec<String>,
    dir: PathBuf,
    numbers: BTreeMap<String, u64>,
}

impl Options {
    fn parse() -> Result<Self, Error> {
        let mut options = Self {
            names: Vec::new(),
            dir: std::env::temp_dir(),
            numbers: BTreeMap::new(),
        };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            match arg.strip_prefix("--") {
                None => options.names.push(arg),
                Some("dir") => options.dir = args.next().ok_or("--dir needs a folder")?.into(),
                Some(name) => {
                    let value = args.next().ok_or(format!("--{name} needs a number"))?;
                    options.numbers.insert(name.to_owned(), value.parse()?);
                }
            }
        }
        Ok(options)
    }

    fn get(&self, name: &str, default: u64) -> u64 {
        self.numbers.get(name).copied().unwrap_or(default)
    }

    fn runs(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|n| n == name)
    }

    fn writer(&self) -> WriterOptions {
        let mut options = WriterOptions::default();
        options.nice = self.get("nice", options.nice as u64) as i32;
        options.group_bytes = self.get("group", options.group_bytes >> 20) << 20;
        options.chunk_bytes = (self.get("chunk", options.chunk_bytes as u64 >> 20) as usize) << 20;
        options.threads = self.get("threads", options.threads as u64) as usize;
        options
    }

    /// A folder of its own inside `--dir`.
    fn folder(&self) -> Result<tempfile::TempDir, Error> {
        Ok(tempfile::tempdir_in(&self.dir)?)
    }
}

fn main() -> Result<(), Error> {
    let options = Options::parse()?;
    if options.runs("persist") {
        persist(&options)?;
    }
    if options.runs("grouping") {
        grouping(&options)?;
    }
    if options.runs("inflation") {
        inflation(&options)?;
    }
    Ok(())
}

fn model(hidden: u32, layers: u32) -> ModelConfig {
    ModelConfig {
        hidden_size: hidden,
        intermediate_size: hidden * 8 / 3 / 16 * 16,
        num_hidden_layers: layers,
        num_attention_heads: 8,
        num_key_value_heads: 8,
        head_dim: hidden / 8,
        vocab_size: 256,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-6,
        rope_theta: 10000.0,
        tie_word_embeddings: false,
        initializer_range: 0.02,
    }
}

/// A layer's values, in the memory the CPU device uses.
struct Values(Aligned<f32>);

impl Held for Values {
    fn bytes(&self) -> Result<&[u8], String> {
        Ok(bytemuck::cast_slice(&self.0))
    }
}

struct HeldState<F>(F);

impl<F: Frozen> Held for HeldState<F> {
    fn bytes(&self) -> Result<&[u8], String> {
        self.0.bytes().map_err(|e| e.to_string())
    }
}

/// A whole model's state.
fn state(model: &ModelConfig) -> Result<Vec<HeldPart>, Error> {
    let mut parts = Vec::new();
    let mut bits = 1_u32;
    for layer in model.layers() {
        let numel = model.layout(layer).numel();
        for kind in StateKind::ALL {
            let mut values = Aligned::<f32>::zeroed(numel)?;
            for value in values.iter_mut() {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *value = bits as f32;
            }
            parts.push(HeldPart {
                span: Span::new(layer, kind, 0..numel as u64),
                held: Arc::new(Values(values)),
            });
        }
    }
    Ok(parts)
}

fn capture(model: &Arc<ModelConfig>, parts: Vec<HeldPart>, step: u64) -> Capture {
    Capture {
        step,
        writer: "bench-1-0".to_owned(),
        rank: RankId(0),
        lane: None,
        model: Arc::clone(model),
        parts,
    }
}

fn durable(outcomes: Vec<Outcome>) -> Result<usize, Error> {
    let mut files = 0;
    for outcome in outcomes {
        match outcome {
            Outcome::Durable(part) => files += part.files.len(),
            Outcome::Failed { error, .. } => return Err(error.into()),
        }
    }
    Ok(files)
}

fn local(path: &Path) -> Result<Arc<dyn Store>, Error> {
    Ok(open(&Location::parse(&path.display().to_string())?)?)
}

/// Processor time of this process so far, user and system, seconds.
fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is valid for a write of one rusage, and an all-zero one is a valid value should the call fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Processor time of this process's threads whose name starts so, seconds.
fn thread_seconds(prefix: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let seconds = tasks.filter_map(|task| {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).ok();
        read("comm").filter(|comm| comm.starts_with(prefix))?;
        read("schedstat")?.split_whitespace().next()?.parse::<f64>().ok()
    });
    seconds.sum::<f64>() * 1e-9
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() - 1) as f64 * q).round() as usize;
    sorted[at]
}

fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

fn spread(values: &[f64], digits: usize) -> String {
    format!(
        "{:.digits$} ({:.digits$} to {:.digits$})",
        median(values),
        quantile(values, 0.0),
        quantile(values, 1.0)
    )
}

/// Seconds on the clock and of the processor, round by round.
#[derive(Default)]
struct Runs {
    seconds: Vec<f64>,
    cpu: Vec<f64>,
}

impl Runs {
    fn time<T>(&mut self, keep: bool, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let result = work()?;
        if keep {
            self.seconds.push(began.elapsed().as_secs_f64());
            self.cpu.push(cpu_seconds() - cpu);
        }
        Ok(result)
    }
}

/// Plain writes: one file, large chunks, one thread, synced with its folder.
fn plain(parts: &[HeldPart], folder: &Path, direct: bool) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    if direct {
        options.custom_flags(libc::O_DIRECT);
    }
    let file = options.open(folder.join("plain"))?;
    let total: usize = parts
        .iter()
        .map(|part| part.held.bytes().map_or(0, <[u8]>::len))
        .sum();
    // SAFETY: the descriptor is open.
    if unsafe { libc::fallocate(std::os::fd::AsRawFd::as_raw_fd(&file), 0, 0, total as i64) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let mut at = 0;
    for part in parts {
        for chunk in part.held.bytes()?.chunks(PLAIN_CHUNK) {
            file.write_all_at(chunk, at)?;
            at += chunk.len() as u64;
        }
    }
    file.sync_all()?;
    Ok(File::open(folder)?.sync_all()?)
}

/// Removes what a case wrote and waits until the disk is done with that.
fn clean(folder: &Path) -> Result<(), Error> {
    for item in std::fs::read_dir(folder)? {
        let path = item?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(path)?;
        } else {
            std::fs::remove_file(path)?;
        }
    }
    File::open(folder)?.sync_all()?;
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

fn persist(options: &Options) -> Result<(), Error> {
    let rounds = options.get("rounds", 9);
    println!(
        "\n### Persisting a state: from `begin` to durable, beside plain writes of the same bytes ({rounds} rounds)\n"
    );
    println!(
        "| state | case | MB/s, median (spread) | ratio to plain O_DIRECT | processor s per GiB (spread) |"
    );
    println!("|---|---|---|---|---|");
    for (hidden, layers) in [(512, 8), (1024, 7)] {
        let model = Arc::new(model(hidden, layers));
        let parts = state(&model)?;
        let bytes = 12.0 * model.parameters() as f64;
        let folder = options.folder()?;
        let names = [
            "plain O_DIRECT + fsync, 1 file",
            "plain buffered + fsync, 1 file",
            "writer",
        ];
        let mut runs = [Runs::default(), Runs::default(), Runs::default()];
        let mut files = 0;
        let writer = Writer::start(local(folder.path())?, options.writer())?;
        for round in 0..=rounds {
            for (case, run) in runs.iter_mut().enumerate() {
                clean(folder.path())?;
                // The first round warms up.
                files = run.time(round > 0, || match case {
                    0 => plain(&parts, folder.path(), true).map(|()| files),
                    1 => plain(&parts, folder.path(), false).map(|()| files),
                    _ => {
                        writer.begin(capture(&model, parts.clone(), round))?;
                        durable(writer.finish(LONG))
                    }
                })?;
            }
        }
        clean(folder.path())?;
        let base = median(&runs[0].seconds);
        for (name, run) in names.iter().zip(&runs) {
            let rates: Vec<f64> = run.seconds.iter().map(|s| bytes / 1e6 / s).collect();
            let cpu: Vec<f64> = run.cpu.iter().map(|s| s / (bytes / GIB)).collect();
            let name = if *name == "writer" {
                format!("writer, {files} files")
            } else {
                (*name).to_owned()
            };
            println!(
                "| {:.0} MiB | {name} | {} | {:.3} | {} |",
                bytes / MIB,
                spread(&rates, 0),
                base / median(&run.seconds),
                spread(&cpu, 3),
            );
        }
    }
    Ok(())
}

/// Requests of a store with so long a way to it.
fn far(name: &str, latency: Duration) -> Result<(Faulty, Arc<dyn Store>), Error> {
    let faulty = Faulty::new(open(&Location::parse(&format!("memory://bench-{name}"))?)?);
    for op in [Op::Put, Op::StartUpload, Op::PutPart, Op::Complete] {
        faulty.next(op, u64::MAX, Fault::Delay(latency));
    }
    Ok((faulty.clone(), Arc::new(faulty)))
}

fn grouping(options: &Options) -> Result<(), Error> {
    let rounds = options.get("rounds", 5);
    let sizes = [1, 4, 8, 16, 32, 64, 128];
    println!("\n### Files of small layers: what a group costs ({rounds} rounds)\n");
    println!(
        "| layers | group target, weights | files | folder: MB/s (spread) | object store, 30 ms a request, simulated: requests | seconds (spread) |"
    );
    println!("|---|---|---|---|---|---|");
    for (hidden, layers) in [(256, 64), (512, 24)] {
        let model = Arc::new(model(hidden, layers));
        let parts = state(&model)?;
        let bytes = 12.0 * model.parameters() as f64;
        let layer = 4.0 * model.layout(rekindle_types::LayerId::Block(0)).numel() as f64 / MIB;
        let folder = options.folder()?;
        let mut disk: Vec<Runs> = sizes.iter().map(|_| Runs::default()).collect();
        let mut net: Vec<Runs> = sizes.iter().map(|_| Runs::default()).collect();
        let mut counts = vec![(0, 0); sizes.len()];
        for round in 0..=rounds {
            for (case, size) in sizes.into_iter().enumerate() {
                let mut chosen = options.writer();
                chosen.group_bytes = if size == 1 { 1 } else { size << 20 };
                clean(folder.path())?;
                let writer = Writer::start(local(folder.path())?, chosen.clone())?;
                counts[case].0 = disk[case].time(round > 0, || {
                    writer.begin(capture(&model, parts.clone(), round))?;
                    durable(writer.finish(LONG))
                })?;
                let (faulty, store) = far(&format!("{hidden}-{size}-{round}"), Duration::from_millis(30))?;
                let writer = Writer::start(Arc::clone(&store), chosen)?;
                net[case].time(round > 0, || {
                    writer.begin(capture(&model, parts.clone(), round))?;
                    durable(writer.finish(LONG))
                })?;
                counts[case].1 = faulty.log().len();
                drop(writer);
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(store.delete_dir(&rekindle_checkpoint::format::step_folder(round)))?;
            }
        }
        clean(folder.path())?;
        for (case, size) in sizes.into_iter().enumerate() {
            let rates: Vec<f64> = disk[case].seconds.iter().map(|s| bytes / 1e6 / s).collect();
            let target = if size == 1 {
                "one layer".to_owned()
            } else {
                format!("{size} MiB")
            };
            println!(
                "| {} of {layer:.1} MiB | {target} | {} | {} | {} | {} |",
                layers + 2,
                counts[case].0,
                spread(&rates, 0),
                counts[case].1,
                spread(&net[case].seconds, 2),
            );
        }
    }
    Ok(())
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

fn inflation(options: &Options) -> Result<(), Error> {
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
