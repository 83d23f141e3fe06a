//! Training throughput of one process, beside PyTorch in the same run.
//!
//! `cargo bench -p rekindle-model --bench train -- [--hidden 256 --inter 688 --layers 8 --heads 8 --kv 8 --vocab 256 --seq 256
//!  --micro-batch 8 --micro-batches 4 --steps 8 --threads 2 --rounds 3 --numerics exact|fast|both]`
//!
//! Each round runs a fresh process of ours, then the peer (`../shared/peers/torch_train.py`), when
//! `REKINDLE_PEER_PYTHON` names a Python with torch and transformers. One JSON line comes out: medians over the
//! rounds, their spread, and how far each part is from what this machine can do (measured in the same process: fused
//! multiply-adds in registers, and `y += x` over memory).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use rekindle_compute::{Cpu, Spent, Work};
use rekindle_model::{AdamW, ExactSum, Philox, Stage, StageInput, StageOutput, StageSpec};
use rekindle_types::{ModelConfig, Numerics, Recompute};
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

const DEFAULTS: [(&str, u32); 12] = [
    ("hidden", 256),
    ("inter", 688),
    ("layers", 8),
    ("heads", 8),
    ("kv", 8),
    ("vocab", 256),
    ("seq", 256),
    ("micro-batch", 8),
    ("micro-batches", 4),
    ("steps", 8),
    ("threads", 2),
    ("rounds", 3),
];

struct Options {
    numbers: BTreeMap<String, u32>,
    numerics: String,
    once: bool,
}

impl Options {
    fn parse() -> Result<Self, Error> {
        let numbers = DEFAULTS.iter().map(|&(k, v)| (k.to_owned(), v)).collect();
        let mut options = Self {
            numbers,
            numerics: "exact".to_owned(),
            once: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let name = arg.trim_start_matches("--").to_owned();
            match name.as_str() {
                "bench" => {}
                "once" => options.once = true,
                "numerics" => options.numerics = args.next().ok_or("--numerics exact|fast|both")?,
                _ if options.numbers.contains_key(&name) => {
                    let value = args.next().ok_or(format!("--{name} needs a number"))?;
                    options.numbers.insert(name, value.parse()?);
                }
                _ => return Err(format!("unknown option {arg}").into()),
            }
        }
        Ok(options)
    }

    fn get(&self, name: &str) -> u32 {
        self.numbers[name]
    }

    /// Arguments for another process of the same shape.
    fn arguments(&self, names: &[&str]) -> Vec<String> {
        names
            .iter()
            .flat_map(|n| [format!("--{n}"), self.get(n).to_string()])
            .collect()
    }

    fn model(&self) -> ModelConfig {
        ModelConfig {
            hidden_size: self.get("hidden"),
            intermediate_size: self.get("inter"),
            num_hidden_layers: self.get("layers"),
            num_attention_heads: self.get("heads"),
            num_key_value_heads: self.get("kv"),
            head_dim: self.get("hidden") / self.get("heads"),
            vocab_size: self.get("vocab"),
            max_position_embeddings: self.get("seq"),
            rms_norm_eps: 1e-6,
            rope_theta: 10000.0,
            tie_word_embeddings: false,
            initializer_range: 0.02,
        }
    }

    fn tokens(&self) -> u64 {
        u64::from(self.get("micro-batches")) * u64::from(self.get("micro-batch")) * u64::from(self.get("seq"))
    }
}

const SHAPE: [&str; 11] = [
    "hidden",
    "inter",
    "layers",
    "heads",
    "kv",
    "vocab",
    "seq",
    "micro-batch",
    "micro-batches",
    "steps",
    "threads",
];

fn main() -> Result<(), Error> {
    let options = Options::parse()?;
    let report = if options.once {
        once(&options)?
    } else {
        rounds(&options)?
    };
    println!("{report}");
    Ok(())
}

/// One training run in this process.
fn once(options: &Options) -> Result<Value, Error> {
    let numerics = if options.numerics == "fast" {
        Numerics::Fast
    } else {
        Numerics::Exact
    };
    let device = Arc::new(Cpu::<f32>::new(options.get("threads") as usize)?);
    let model = options.model();
    let spec = StageSpec {
        layers: 0..model.num_hidden_layers + 2,
        micro_batch: options.get("micro-batch"),
        seq_len: options.get("seq"),
        numerics,
        recompute: Recompute::None,
        tokens_per_step: options.tokens(),
        lane: 0,
        lanes: 1,
        optimizer: AdamW {
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.01,
        },
        model,
    };
    let rows = spec.rows();
    let (vocab, parameters) = (options.get("vocab"), spec.model.parameters());
    let mut stage = Stage::new(Arc::clone(&device), spec)?;
    stage.init_weights(0)?;
    let philox = Philox::new(1);
    let token = |i: usize, m: u32| philox.words([i as u32, m, 0, 0])[0] % vocab;
    let batches: Vec<Vec<u32>> = (0..options.get("micro-batches"))
        .map(|m| (0..rows + 1).map(|i| token(i, m)).collect())
        .collect();
    let (mut times, mut loss) = (Vec::new(), 0.0);
    let warm = 2;
    let mut before = [Spent::default(); 3];
    for s in 0..options.get("steps") + warm {
        if s == warm {
            before = spent(&device);
        }
        let began = Instant::now();
        loss = step(&mut stage, &batches, u64::from(s) + 1, options.tokens())?;
        if s >= warm {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let after = spent(&device);
    // Parts are sums over all steps, so their whole is the mean, not the median.
    let mean = times.iter().sum::<f64>() / times.len().max(1) as f64;
    let seconds = median(&mut times);
    let memory = stage.memory();
    // The limits are measured last: their memory must not count.
    let rss = peak_rss_mib();
    let limits = limits(options.get("threads") as usize);
    let parts = parts(&before, &after, f64::from(options.get("steps")), mean, &limits);
    Ok(json!({
        "numerics": options.numerics, "threads": options.get("threads"), "params": parameters,
        "tokens_per_step": options.tokens(), "step_s": seconds, "tokens_per_s": options.tokens() as f64 / seconds,
        "gflops": 6.0 * parameters as f64 * options.tokens() as f64 / seconds / 1e9, "loss": loss,
        "peak_rss_mib": rss, "engine_mib": memory.total() >> 20, "limits": limits, "parts": parts,
    }))
}

fn step(stage: &mut Stage<Cpu<f32>>, batches: &[Vec<u32>], step: u64, tokens: u64) -> Result<f64, Error> {
    let mut total = ExactSum::default();
    for tokens in batches {
        let (inputs, targets) = (&tokens[..tokens.len() - 1], &tokens[1..]);
        if let StageOutput::Loss { sum } = stage.forward(0, StageInput::Tokens(inputs), Some(targets))? {
            total = ExactSum::of_loss(sum)
                .and_then(|s| total.add(s))
                .ok_or("the loss isn't finite")?;
        }
        stage.backward(0, None, &mut |_, _| {})?;
    }
    let norm = stage.finish_gradients()?.sum_squares.norm();
    for layer in stage.layers() {
        stage.update(layer, step, 3e-4, (1.0 / (norm + 1e-6)).min(1.0))?;
    }
    Ok(total.mean_loss(tokens))
}

fn spent(device: &Cpu<f32>) -> [Spent; 3] {
    [Work::Product, Work::Attention, Work::Other].map(|w| device.spent(w))
}

/// Seconds per step, share of the step, and share of the machine's limit for each kind of work.
fn parts(before: &[Spent; 3], after: &[Spent; 3], steps: f64, step: f64, limits: &Value) -> Value {
    let mut all = serde_json::Map::new();
    let mut rest = step;
    for (i, name) in ["products", "attention", "other"].into_iter().enumerate() {
        let seconds = (after[i].nanos - before[i].nanos) as f64 / 1e9 / steps;
        let gflop = (after[i].flops - before[i].flops) as f64 / 1e9 / steps;
        let gbyte = (after[i].bytes - before[i].bytes) as f64 / 1e9 / steps;
        rest -= seconds;
        let limit = if i < 2 {
            gflop / seconds / limits["gflops"].as_f64().unwrap_or(f64::NAN)
        } else {
            gbyte / seconds / limits["gbytes_per_s"].as_f64().unwrap_or(f64::NAN)
        };
        let value = json!({
            "seconds": seconds, "share_of_step": seconds / step, "gflop": gflop, "gbyte": gbyte, "share_of_limit": limit,
        });
        all.insert(name.to_owned(), value);
    }
    all.insert("unaccounted_seconds".to_owned(), json!(rest));
    Value::Object(all)
}

fn peak_rss_mib() -> i64 {
    // SAFETY: `rusage` is plain data, and the call fills it.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage.ru_maxrss / 1024
    }
}

/// What this machine can do with `threads` threads: best of three.
fn limits(threads: usize) -> Value {
    let best = |work: &(dyn Fn() -> f64 + Sync)| {
        (0..3)
            .map(|_| {
                std::thread::scope(|scope| {
                    let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
                    handles.into_iter().filter_map(|h| h.join().ok()).sum::<f64>()
                })
            })
            .fold(0.0, f64::max)
    };
    json!({"gflops": best(&multiply_add_rate), "gbytes_per_s": best(&memory_rate)})
}

/// Fused multiply-adds on 12 independent chains.
struct Chains;

impl pulp::WithSimd for Chains {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> f64 {
        const ROUNDS: usize = 4_000_000;
        let (a, b) = (
            simd.splat_f32s(std::hint::black_box(0.999)),
            simd.splat_f32s(std::hint::black_box(1e-3)),
        );
        let mut sums = [simd.splat_f32s(1.0); 12];
        let began = Instant::now();
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, a, b);
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        std::hint::black_box(sums.map(|s| simd.reduce_sum_f32s(s)));
        (2 * S::F32_LANES * 12 * ROUNDS) as f64 / seconds / 1e9
    }
}

/// GFLOP/s of one thread.
fn multiply_add_rate() -> f64 {
    pulp::Arch::new().dispatch(Chains)
}

/// `y += x` over 64 MiB each: two reads and a write, GB/s of one thread.
fn memory_rate() -> f64 {
    let (x, mut y) = (vec![1.0f32; 16 << 20], vec![0.0f32; 16 << 20]);
    let began = Instant::now();
    for _ in 0..4 {
        for (y, x) in y.iter_mut().zip(&x) {
            *y += *x;
        }
        std::hint::black_box(&mut y);
    }
    4.0 * 3.0 * (64 << 20) as f64 / began.elapsed().as_secs_f64() / 1e9
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n % 2 == 1 {
        values[n / 2]
    } else {
        (values[n / 2 - 1] + values[n / 2]) / 2.0
    }
}

/// Fresh processes of ours and of the peer in turn.
fn rounds(options: &Options) -> Result<Value, Error> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/peers/torch_train.py");
    let python = std::env::var_os("REKINDLE_PEER_PYTHON").filter(|_| script.exists());
    if python.is_none() {
        eprintln!(
            "no peer: set REKINDLE_PEER_PYTHON to a Python with torch, and have {}",
            script.display()
        );
    }
    let modes: &[&str] = match options.numerics.as_str() {
        "both" => &["exact", "fast"],
        "fast" => &["fast"],
        _ => &["exact"],
    };
    let mut runs: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for _ in 0..options.get("rounds") {
        for mode in modes {
            let mut command = Command::new(std::env::current_exe()?);
            command
                .args(options.arguments(&SHAPE))
                .args(["--numerics", mode, "--once"]);
            runs.entry(mode).or_default().push(run(command)?);
        }
        if let Some(python) = &python {
            let mut command = Command::new(python);
            command.arg(&script).args(options.arguments(&SHAPE));
            runs.entry("peer").or_default().push(run(command)?);
        }
    }
    Ok(summary(&runs))
}

fn run(mut command: Command) -> Result<Value, Error> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let line = text
        .lines()
        .rfind(|l| l.starts_with('{'))
        .ok_or("no JSON line came out")?;
    eprintln!("{line}");
    Ok(serde_json::from_str(line)?)
}

fn summary(runs: &BTreeMap<&str, Vec<Value>>) -> Value {
    let of = |who: &str, key: &str| -> Vec<f64> {
        runs.get(who)
            .into_iter()
            .flatten()
            .filter_map(|r| r[key].as_f64())
            .collect()
    };
    let mut report = serde_json::Map::new();
    for (who, all) in runs {
        let mut rates = of(who, "tokens_per_s");
        let middle = median(&mut rates);
        report.insert(
            (*who).to_owned(),
            json!({
                "tokens_per_s": middle, "spread": [rates[0], rates[rates.len() - 1]], "rounds": rates.len(),
                "gflops": median(&mut of(who, "gflops")), "step_s": median(&mut of(who, "step_s")),
                "peak_rss_mib": median(&mut of(who, "peak_rss_mib")),
                "parts": all.last().map(|r| r["parts"].clone()), "limits": all.last().map(|r| r["limits"].clone()),
            }),
        );
    }
    let rate = |who: &str| report.get(who).and_then(|r| r["tokens_per_s"].as_f64());
    let ratio = |a: &str, b: &str| Some(rate(a)? / rate(b)?);
    let ratios = json!({
        "exact_to_peer": ratio("exact", "peer"), "fast_to_peer": ratio("fast", "peer"), "exact_to_fast": ratio("exact", "fast"),
    });
    report.insert("ratios".to_owned(), ratios);
    Value::Object(report)
}
