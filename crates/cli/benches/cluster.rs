//! Speed of whole clusters of processes on loopback, run by hand:
//!
//! ```text
//! cargo bench -p rekindle-cli --bench cluster -- [ROUNDS]
//! ```
//!
//! 1. Four pipeline workers on this machine's cores against a single process on the same job, alternating; the ratio
//!    of medians.
//! 2. Peak memory of the single trainer, and of each of the four.
//! 3. Submit to first committed step, against running services.
//! 4. What the coordinator costs training: steps while it is stopped (SIGSTOP) against steps while it takes reports.
//!
//! Absolute figures of a shared machine mean little; quote ratios, with the spread.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Steps of a timed run; the first two warm up.
const STEPS: usize = 8;
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(600);

fn main() {
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(3);
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_text(folder.path());
    pipeline_against_single(folder.path(), rounds);
    submit_to_first_step(folder.path(), rounds);
    reports_against_none(folder.path());
}

/// About 2 MB of text; its content doesn't matter for speed.
fn write_text(folder: &Path) {
    let lines = (0_u64..40_000).map(|n| format!("line {n}, {} and {}\n", n * n % 9973, n * 31 % 7919));
    std::fs::write(folder.join("text.txt"), lines.collect::<String>()).expect("a text file");
}

/// A job of the shape that `../shared/peers/torch_train.py` has by default, with more, smaller micro-batches.
fn job(folder: &Path, name: &str, stages: u32, steps: usize, blocks: u32, batch: u32) -> PathBuf {
    let text = format!(
        "[job]\nname = \"{name}\"\noutput = \"{name}\"\n\
         [model]\nhidden_size = 256\nintermediate_size = 688\nnum_hidden_layers = {blocks}\nnum_attention_heads = 8\n\
         [data]\ntrain = [\"text.txt\"]\nseq_len = 256\n\
         [training]\nsteps = {steps}\nglobal_batch = {batch}\nmicro_batch = 2\ndigest_every = 0\n\
         [optimizer]\nlr = 3e-4\n[parallelism]\npipeline = {stages}\n"
    );
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, text).expect("a job file");
    path
}

fn rekindle(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rekindle"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Runs a job to its end while watching its trainers; seconds a step, and the trainers' peak memory in MiB.
fn run(path: &Path, workers: u32, threads: u32) -> (Vec<f64>, Vec<f64>) {
    let (job, workers, threads) = (
        path.display().to_string(),
        workers.to_string(),
        threads.to_string(),
    );
    let mut child = rekindle(&["run", &job, "--workers", &workers, "--threads", &threads])
        .spawn()
        .expect("a run");
    let start = Instant::now();
    let mut peaks = std::collections::BTreeMap::new();
    let status = loop {
        for (pid, mib) in trainers_below(child.id()) {
            peaks.insert(pid, mib);
        }
        if let Some(status) = child.try_wait().expect("a child to wait for") {
            break status;
        }
        assert!(start.elapsed() < LIMIT, "{job} takes too long");
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(
        status.success(),
        "{job} failed; its folder: {}",
        path.with_extension("").display()
    );
    let steps = step_seconds(&path.with_extension(""));
    std::fs::remove_dir_all(path.with_extension("")).expect("the run's folder");
    (steps[2..].to_vec(), peaks.into_values().collect())
}

fn step_seconds(folder: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["step_seconds"].as_f64();
    text.lines().filter_map(parse).collect()
}

/// Peak resident memory of every trainer that descends from `root`, MiB.
fn trainers_below(root: u32) -> Vec<(u32, f64)> {
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        let children = format!("/proc/{pid}/task/{pid}/children");
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        let lists = threads
            .map(|t| t.path().join("children"))
            .chain([PathBuf::from(children)]);
        let pids: std::collections::BTreeSet<u32> = lists
            .filter_map(|list| std::fs::read_to_string(list).ok())
            .flat_map(|text| {
                text.split_whitespace()
                    .filter_map(|p| p.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect();
        open.extend(&pids);
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command.split(|b| *b == 0).any(|part| part == b"trainer") {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let peak = status.lines().find_map(|l| {
                l.strip_prefix("VmHWM:")?
                    .split_whitespace()
                    .next()?
                    .parse::<f64>()
                    .ok()
            });
            found.extend(peak.map(|kib| (pid, kib / 1024.0)));
        }
    }
    found
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(values: &[f64]) -> String {
    let (low, high) = values
        .iter()
        .fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    format!("{:.3} s ({low:.3}–{high:.3}, n={})", median(values), values.len())
}

fn pipeline_against_single(folder: &Path, rounds: usize) {
    let (one, four) = (
        job(folder, "single", 1, STEPS, 8, 32),
        job(folder, "four", 4, STEPS, 8, 32),
    );
    let mut seconds = [Vec::new(), Vec::new(), Vec::new()];
    let mut peaks = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (n, (path, workers, threads)) in [(&one, 1, 2), (&four, 4, 1), (&four, 4, 2)]
            .into_iter()
            .enumerate()
        {
            let (steps, memory) = run(path, workers, threads);
            seconds[n].extend(steps);
            peaks[n] = memory;
        }
    }
    let single = median(&seconds[0]);
    println!("step of 8,192 tokens, 6.5 M parameters, 16 micro-batches of 2 x 256 tokens:");
    println!("  1 process,  2 threads          {}", spread(&seconds[0]));
    println!(
        "  4 workers,  1 thread each      {}  ratio of speed {:.3}",
        spread(&seconds[1]),
        single / median(&seconds[1])
    );
    println!(
        "  4 workers,  2 threads each     {}  ratio of speed {:.3}",
        spread(&seconds[2]),
        single / median(&seconds[2])
    );
    println!(
        "peak memory, MiB: single {:.0?}, four of 1 thread {:.0?}, four of 2 threads {:.0?}",
        peaks[0], peaks[1], peaks[2]
    );
}

/// A coordinator and four workers, ended when dropped.
struct Services(Vec<Child>, String);

impl Services {
    fn start(folder: &Path) -> Self {
        let state = folder.join("state").display().to_string();
        let mut command = rekindle(&[
            "coordinator",
            "--listen",
            "127.0.0.1:0",
            "--state-dir",
            &state,
            "-o",
            "json",
        ]);
        let mut coordinator = command.stdout(Stdio::piped()).spawn().expect("a coordinator");
        let mut line = String::new();
        let stdout = coordinator.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("its address");
        let address: serde_json::Value = serde_json::from_str(&line).expect("its address as JSON");
        let url = address["listening"].as_str().expect("an address").to_owned();
        let mut children = vec![coordinator];
        for n in 1..=4 {
            let name = format!("w{n}");
            let worker =
                rekindle(&["worker", "--coordinator", &url, "--name", &name, "--threads", "1"]).spawn();
            children.push(worker.expect("a worker"));
        }
        std::thread::sleep(Duration::from_secs(2));
        Self(children, url)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        for child in self.0.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_for_steps(folder: &Path, count: usize) -> Duration {
    let start = Instant::now();
    while step_seconds(folder).len() < count {
        assert!(
            start.elapsed() < LIMIT,
            "{} has no {count} steps",
            folder.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

fn submit_to_first_step(folder: &Path, rounds: usize) {
    let services = Services::start(folder);
    let mut seconds = Vec::new();
    for n in 0..rounds {
        let name = format!("quick-{n}");
        let path = job(folder, &name, 4, 2, 4, 8).display().to_string();
        let start = Instant::now();
        let submitted = rekindle(&["submit", &path, "--coordinator", &services.1])
            .status()
            .expect("a submission");
        assert!(submitted.success(), "{path} wasn't taken");
        wait_for_steps(&folder.join(&name), 1);
        seconds.push(start.elapsed().as_secs_f64());
        wait_for_steps(&folder.join(&name), 2);
        std::thread::sleep(Duration::from_secs(2));
    }
    println!(
        "submit to first committed step, 4 workers, a step of 2,048 tokens: {}",
        spread(&seconds)
    );
}

fn reports_against_none(folder: &Path) {
    let services = Services::start(folder);
    let path = job(folder, "reports", 4, 90, 4, 8).display().to_string();
    let submitted = rekindle(&["submit", &path, "--coordinator", &services.1])
        .status()
        .expect("a submission");
    assert!(submitted.success(), "{path} wasn't taken");
    let run = folder.join("reports");
    let coordinator = services.0[0].id().to_string();
    let signal = |name: &str| {
        let sent = Command::new("kill")
            .args([name, &coordinator])
            .status()
            .expect("kill");
        assert!(sent.success(), "kill {name} {coordinator}");
    };
    // Longer stops would let keep-alives end the sessions, which is not what is measured here.
    let mut stopped = Vec::new();
    for until in [15, 35, 55, 75] {
        wait_for_steps(&run, until);
        let before = step_seconds(&run).len();
        signal("-STOP");
        std::thread::sleep(Duration::from_secs(2));
        signal("-CONT");
        std::thread::sleep(Duration::from_millis(300));
        stopped.push(before..step_seconds(&run).len().saturating_sub(1));
    }
    wait_for_steps(&run, 90);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for (n, seconds) in step_seconds(&run).into_iter().enumerate().skip(2) {
        let paused = stopped.iter().any(|range| range.contains(&n));
        if paused {
            without.push(seconds)
        } else {
            with.push(seconds)
        }
    }
    println!("steps while the coordinator takes reports: {}", spread(&with));
    println!("steps while it is stopped:                 {}", spread(&without));
    println!("ratio {:.3}", median(&with) / median(&without));
}
