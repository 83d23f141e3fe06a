//! Real processes for the tests: the binary, job files of a tiny model, what a run wrote, and who is still alive.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]
#![allow(dead_code, reason = "every test file uses its own part")]

mod cluster;
pub mod machines;
pub mod net;
pub mod random;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

#[allow(unused_imports, reason = "every test file uses its own part")]
pub use cluster::Cluster;

/// No single wait in a test is longer; hit only when something hangs.
pub const LIMIT: Duration = Duration::from_secs(240);

/// The binary under test, quiet about colours and without the caller's settings.
#[must_use]
pub fn rekindle(args: &[&str]) -> Command {
    rekindle_in(None, args)
}

/// The same in a network namespace.
#[must_use]
pub fn rekindle_in(namespace: Option<&str>, args: &[&str]) -> Command {
    let binary = env!("CARGO_BIN_EXE_rekindle");
    let mut command = Command::new(if namespace.is_some() { "ip" } else { binary });
    if let Some(namespace) = namespace {
        command.args(["netns", "exec", namespace, binary]);
    }
    command.args(args).stdin(Stdio::null());
    for key in ["REKINDLE_COORDINATOR", "RUST_LOG", "NO_COLOR"] {
        command.env_remove(key);
    }
    // What is tested here holds for the processor, whatever else this machine has.
    command.env("REKINDLE_DEVICE", "cpu");
    command
}

/// What a finished process left behind.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status; -1: it was killed by a signal.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs to the end, within [`LIMIT`].
#[must_use]
pub fn finish(mut command: Command) -> Finished {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let watchdog = std::thread::spawn(move || wait_output(child));
    let deadline = Instant::now() + LIMIT;
    while !watchdog.is_finished() {
        if Instant::now() > deadline {
            signal(pid, "KILL");
            panic!(
                "{command:?} didn't end; its output: {:?}",
                watchdog.join().unwrap()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = watchdog.join().unwrap();
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn wait_output(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

/// Runs the binary to the end.
#[must_use]
pub fn call(args: &[&str]) -> Finished {
    finish(rekindle(args))
}

/// Sends a signal by name.
pub fn signal(pid: u32, name: &str) {
    assert!(try_signal(pid, name), "no process {pid} to send {name} to");
}

/// Sends a signal by name to a process that may be gone; whether it was there.
pub fn try_signal(pid: u32, name: &str) -> bool {
    let mut kill = Command::new("kill");
    kill.args([&format!("-{name}"), &pid.to_string()]);
    kill.stderr(Stdio::null()).status().unwrap().success()
}

/// Waits until `ready` gives something, within [`LIMIT`].
pub fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} didn't happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A child that is killed when the test ends, however it ends.
#[derive(Debug)]
pub struct Service(pub Child);

impl Service {
    /// Starts `command`.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end; its exit status (-1: a signal).
    pub fn ended(&mut self) -> i32 {
        until("the end of a process", || self.0.try_wait().unwrap())
            .code()
            .unwrap_or(-1)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A job of a tiny model; fields are what tests vary.
#[derive(Debug, Clone)]
pub struct Job {
    /// `tie_word_embeddings`.
    pub tied: bool,
    /// Stages.
    pub pipeline: u32,
    /// Lanes.
    pub data: u32,
    /// Steps.
    pub steps: u64,
    /// `exact` or `fast`.
    pub numerics: &'static str,
    /// `model.init_from`.
    pub from: Option<String>,
    /// Further sections, as TOML.
    pub more: String,
}

impl Job {
    /// One rank, exact.
    #[must_use]
    pub fn new(steps: u64) -> Self {
        Self {
            tied: false,
            pipeline: 1,
            data: 1,
            steps,
            numerics: "exact",
            from: None,
            more: String::new(),
        }
    }

    /// With so many stages and lanes.
    #[must_use]
    pub fn over(mut self, pipeline: u32, data: u32) -> Self {
        (self.pipeline, self.data) = (pipeline, data);
        self
    }

    /// That saves its state every so many steps.
    #[must_use]
    pub fn saving(mut self, every: u64) -> Self {
        self.more = format!("[checkpoint]\nevery = {every}\n");
        self
    }

    /// That may go on from these sources only, as TOML.
    #[must_use]
    pub fn recovering(mut self, sources: &str) -> Self {
        self.more += &format!("[recovery]\nsources = {sources}\n");
        self
    }

    /// With parities exchanged every so many steps, for so many losses at once.
    #[must_use]
    pub fn exchanging(mut self, every: u64, losses: u32) -> Self {
        self.more += &format!("[recovery.parity]\nevery = {every}\nlosses = {losses}\n");
        self
    }

    /// Writes `name.toml` and its text into `folder`; the run's folder is `folder/name`.
    #[must_use]
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let text = folder.join("text.txt");
        if !text.exists() {
            std::fs::write(&text, include_str!("../../../../LICENSE")).unwrap();
        }
        let Self {
            tied,
            pipeline,
            data,
            steps,
            numerics,
            from,
            more,
        } = self;
        let from = from
            .as_ref()
            .map_or_else(String::new, |from| format!("init_from = {from:?}"));
        let path = folder.join(format!("{name}.toml"));
        let job = format!(
            r#"
[job]
name = "{name}"
seed = 7
output = "{name}"

[model]
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 3
num_attention_heads = 4
num_key_value_heads = 2
tie_word_embeddings = {tied}
{from}

[data]
train = ["text.txt"]
val = ["text.txt"]
seq_len = 16

[training]
steps = {steps}
global_batch = 8
micro_batch = 1
max_grad_norm = 0.5
numerics = "{numerics}"
digest_every = 7

[evaluation]
every = 20
sequences = 4

[optimizer]
lr = 1e-2

[lr_schedule]
kind = "cosine"
warmup_steps = 5

[parallelism]
pipeline = {pipeline}
data = {data}

{more}
"#
        );
        std::fs::write(&path, job).unwrap();
        path
    }
}

/// One line of metrics.jsonl: floats as their bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Bits of the loss.
    pub loss: u64,
    /// Bits of the gradient norm.
    pub grad_norm: u64,
    /// Bits of the held-out loss.
    pub val_loss: Option<u64>,
    /// Digest of the tokens.
    pub data_digest: String,
    /// Digest of weights and moments.
    pub state_digest: Option<String>,
}

/// The last line of each step in a run's metrics.jsonl. A line that is still being written is left out.
#[must_use]
pub fn metrics(run: &Path) -> BTreeMap<u64, Line> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(line).collect()
}

fn line(text: &str) -> (u64, Line) {
    let value: serde_json::Value = serde_json::from_str(text).unwrap();
    let bits = |key: &str| value[key].as_f64().map(f64::to_bits);
    let digest = |key: &str| value[key].as_str().map(str::to_owned);
    let line = Line {
        loss: bits("loss").unwrap(),
        grad_norm: bits("grad_norm").unwrap(),
        val_loss: bits("val_loss"),
        data_digest: digest("data_digest").unwrap(),
        state_digest: digest("state_digest"),
    };
    (value["step"].as_u64().unwrap(), line)
}

/// Compares what a run measured with what it should have, step by step.
pub fn assert_same_metrics(run: &Path, wanted: &BTreeMap<u64, Line>, what: &str) {
    let got = metrics(run);
    let mut all: Vec<u64> = got.keys().chain(wanted.keys()).copied().collect();
    all.sort_unstable();
    all.dedup();
    let differ = all.into_iter().filter(|step| got.get(step) != wanted.get(step));
    let differ: Vec<String> = differ
        .take(4)
        .map(|step| format!("step {step}: {:?}, not {:?}", got.get(&step), wanted.get(&step)))
        .collect();
    assert!(differ.is_empty(), "{what}: {}", differ.join("\n"));
}

/// The digest after the last step of a run.
#[must_use]
pub fn final_digest(run: &Path) -> String {
    let lines = metrics(run);
    let (_, last) = lines.last_key_value().unwrap();
    last.state_digest.clone().unwrap()
}

/// Trains `job` with `rekindle run` and returns what it measured.
#[must_use]
pub fn train(job: &Job, folder: &Path, name: &str, workers: u32, threads: u32) -> BTreeMap<u64, Line> {
    let path = job.write(folder, name);
    let (workers, threads) = (workers.to_string(), threads.to_string());
    let path = path.display().to_string();
    let done = call(&["run", &path, "--workers", &workers, "--threads", &threads]);
    assert_eq!(done.code, 0, "{name}: {}", done.stderr);
    let lines = metrics(&folder.join(name));
    assert_eq!(lines.len() as u64, job.steps, "{name}: {}", done.stderr);
    lines
}

/// Processes that inherited `tag` in their environment and are alive: (pid, command line).
#[must_use]
pub fn tagged(tag: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let environ = String::from_utf8_lossy(&read("environ")).into_owned();
        // A zombie's files are empty.
        if environ
            .split('\0')
            .any(|v| v == format!("REKINDLE_TEST_TAG={tag}"))
        {
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            found.push((pid, line));
        }
    }
    found
}

/// Living child processes of `parent`.
#[must_use]
pub fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // `pid (name) state ppid …`; the name may hold anything.
        let mut rest = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let (state, ppid) = (rest.next(), rest.next());
        if ppid.and_then(|p| p.parse().ok()) == Some(parent) && state != Some("Z") {
            found.extend(entry.file_name().to_string_lossy().parse::<u32>());
        }
    }
    found
}

/// Processor time a process has used, in clock ticks.
#[must_use]
pub fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // utime and stime are fields 14 and 15; the part after the name begins with field 3.
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Waits until a run has committed a step.
pub fn reaches(run: &Path, step: u64) {
    until(&format!("step {step}"), || {
        metrics(run)
            .last_key_value()
            .filter(|(s, _)| **s >= step)
            .map(|_| ())
    });
}
