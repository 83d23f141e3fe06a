//! A coordinator and its workers as child processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::child::ChildProcess;
use crate::device::Chosen;
use crate::output;
use crate::problem::Problem;

/// How long the coordinator may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Restarts of one child before giving up: something is wrong that a restart doesn't mend.
const MOST_RESTARTS: u32 = 20;
/// The same where children are killed on purpose.
const MOST_RESTARTS_IN_CHAOS: u32 = 1_000;

/// What the cluster is to look like.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Number of workers.
    pub workers: u32,
    /// Trainers each of them may run.
    pub slots: u32,
    /// Processor threads of a trainer.
    pub threads: u32,
    /// What trainers compute on: the workers take turns.
    pub devices: Chosen,
    /// Where the coordinator keeps its journal.
    pub state_dir: PathBuf,
    /// Where the children log.
    pub logs: PathBuf,
    /// What they log.
    pub log_level: String,
    /// How their log lines look.
    pub log_format: &'static str,
    /// Whether faults may be injected into them.
    pub allow_chaos: bool,
}

impl ClusterOptions {
    fn most_restarts(&self) -> u32 {
        if self.allow_chaos {
            MOST_RESTARTS_IN_CHAOS
        } else {
            MOST_RESTARTS
        }
    }
}

/// The running children. Dropping it kills them.
#[derive(Debug)]
pub struct LocalCluster {
    options: ClusterOptions,
    address: String,
    coordinator: Member,
    workers: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    process: ChildProcess,
    restarts: u32,
}

/// What a coordinator says on stdout once it listens.
#[derive(Debug, Deserialize)]
struct Listening {
    listening: String,
}

impl LocalCluster {
    /// Starts the coordinator, waits until it listens, starts the workers.
    ///
    /// # Errors
    /// A folder can't be made, or a child can't be started or ends at once.
    pub async fn start(options: ClusterOptions) -> Result<Self, Problem> {
        for folder in [&options.state_dir, &options.logs] {
            std::fs::create_dir_all(folder)
                .map_err(|e| Problem::new(format!("can't make the folder {}", folder.display())).cause(e))?;
        }
        let (coordinator, address) = start_coordinator(&options, "127.0.0.1:0").await?;
        let mut cluster = Self {
            options,
            address,
            coordinator,
            workers: Vec::new(),
        };
        for n in 0..cluster.options.workers as usize {
            let process = cluster.start_worker(n)?;
            cluster.workers.push(Member {
                name: worker_name(n),
                process,
                restarts: 0,
            });
        }
        Ok(cluster)
    }

    /// Where the coordinator listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    fn start_worker(&self, n: usize) -> Result<ChildProcess, Problem> {
        let (o, name) = (&self.options, &worker_name(n));
        let mut args = owned(&["worker", "--coordinator", &self.address, "--name", name]);
        args.extend(owned(&[
            "--threads",
            &o.threads.to_string(),
            "--slots",
            &o.slots.to_string(),
            "--device",
            &o.devices.of(n).to_string(),
        ]));
        args.extend(child_args(o));
        ChildProcess::start(name, &args, &log_of(&o.logs, name), Stdio::null())
    }

    /// Starts again what has died.
    ///
    /// # Errors
    /// A child keeps dying.
    pub async fn tend(&mut self) -> Result<(), Problem> {
        if let Some(status) = self.coordinator.process.ended() {
            self.coordinator.count(&status, self.options.most_restarts())?;
            let listen = self.address.trim_start_matches("http://").to_owned();
            let restarts = self.coordinator.restarts;
            (self.coordinator, self.address) = start_coordinator(&self.options, &listen).await?;
            self.coordinator.restarts = restarts;
        }
        for n in 0..self.workers.len() {
            if let Some(status) = self.workers[n].process.ended() {
                self.workers[n].count(&status, self.options.most_restarts())?;
                self.workers[n].process = self.start_worker(n)?;
            }
        }
        Ok(())
    }

    /// Ends all children, workers first. Bounded.
    pub async fn stop(mut self) {
        for worker in &self.workers {
            worker.process.terminate();
        }
        for worker in &mut self.workers {
            worker.process.stopped().await;
        }
        self.coordinator.process.terminate();
        self.coordinator.process.stopped().await;
    }
}

fn worker_name(n: usize) -> String {
    format!("worker-{}", n + 1)
}

impl Member {
    fn count(&mut self, how: &std::process::ExitStatus, most: u32) -> Result<(), Problem> {
        self.restarts += 1;
        if self.restarts > most {
            return Err(self
                .process
                .died(format!("{how}, for the {}th time", self.restarts)));
        }
        output::say(&format!("{} ended ({how}); starting it again", self.name));
        Ok(())
    }
}

async fn start_coordinator(options: &ClusterOptions, listen: &str) -> Result<(Member, String), Problem> {
    let state_dir = options.state_dir.display().to_string();
    let mut args = owned(&[
        "coordinator",
        "-o",
        "json",
        "--listen",
        listen,
        "--state-dir",
        &state_dir,
    ]);
    args.extend(child_args(options));
    let name = "coordinator".to_owned();
    let mut process = ChildProcess::start(&name, &args, &log_of(&options.logs, &name), Stdio::piped())?;
    let mut line = String::new();
    if let Some(stdout) = process.stdout() {
        let mut reader = BufReader::new(stdout);
        let read = tokio::time::timeout(START_LIMIT, reader.read_line(&mut line)).await;
        if read.is_err() {
            return Err(process.died(format!("it didn't listen within {} s", START_LIMIT.as_secs())));
        }
    }
    let listening: Listening =
        serde_json::from_str(&line).map_err(|_| process.died("it didn't say where it listens"))?;
    Ok((
        Member {
            name,
            process,
            restarts: 0,
        },
        listening.listening,
    ))
}

fn child_args(options: &ClusterOptions) -> Vec<String> {
    let mut args = owned(&[
        "--log-level",
        &options.log_level,
        "--log-format",
        options.log_format,
    ]);
    args.extend(options.allow_chaos.then(|| "--allow-chaos".to_owned()));
    args
}

fn log_of(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.log"))
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|a| (*a).to_owned()).collect()
}
