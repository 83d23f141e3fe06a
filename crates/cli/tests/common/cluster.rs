//! A coordinator and workers as processes, on loopback or on a network of namespaces; what is done to them, and how
//! they are started again.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::net::{self, Net};
use super::{Finished, Service, children, finish, rekindle_in, signal, until};

/// A coordinator and workers, each started by hand.
pub struct Cluster {
    /// The coordinator.
    pub coordinator: Service,
    /// The workers `w1`, `w2`, …
    pub workers: Vec<Service>,
    /// Where the coordinator listens.
    pub address: String,
    /// Its folder; beside it are the logs, `coordinator.log`, `w1.log`, …
    pub state_dir: PathBuf,
    /// Further arguments of the coordinator.
    pub coordinator_args: Vec<String>,
    /// Further arguments of every worker.
    pub worker_args: Vec<String>,
    /// The network they are on; none: this machine's loopback. After the processes, so that these go first.
    pub net: Option<Net>,
}

impl Cluster {
    /// Starts them.
    #[must_use]
    pub fn start(folder: &Path, workers: u32) -> Self {
        Self::start_with(folder, workers, &[], &[])
    }

    /// The same with further arguments of the coordinator and of every worker.
    #[must_use]
    pub fn start_with(folder: &Path, workers: u32, coordinator: &[&str], worker: &[&str]) -> Self {
        Self::start_on(None, folder, workers, coordinator, worker)
    }

    /// The same on a network of their own.
    #[must_use]
    pub fn start_on(
        net: Option<Net>,
        folder: &Path,
        workers: u32,
        coordinator: &[&str],
        worker: &[&str],
    ) -> Self {
        let state_dir = folder.join("state");
        let insecure = net.as_ref().map(|_| "--insecure");
        let owned = |args: &[&str]| {
            args.iter()
                .chain(&insecure)
                .map(|arg| (*arg).to_owned())
                .collect()
        };
        let (coordinator_args, worker_args): (Vec<String>, _) = (owned(coordinator), owned(worker));
        let namespace = net.as_ref().map(|net| net.namespace(net::COORDINATOR));
        let host = host(net.as_ref(), net::COORDINATOR);
        let (coordinator, address) = start_coordinator(
            namespace.as_deref(),
            &state_dir,
            &format!("{host}:0"),
            &coordinator_args,
        );
        let mut cluster = Self {
            workers: Vec::new(),
            coordinator,
            address,
            state_dir,
            coordinator_args,
            worker_args,
            net,
        };
        for _ in 0..workers {
            cluster.add_worker();
        }
        cluster
    }

    /// Starts another worker.
    pub fn add_worker(&mut self) {
        let worker = self.new_worker(self.workers.len());
        self.workers.push(worker);
    }

    /// Kills worker `n` with SIGKILL and starts it again, as whoever watches over processes would.
    pub fn kill_worker(&mut self, n: usize) {
        signal(self.workers[n].pid(), "KILL");
        self.workers[n].ended();
        self.workers[n] = self.new_worker(n);
    }

    /// Starts a process in the name of worker `n`.
    #[must_use]
    pub fn new_worker(&self, n: usize) -> Service {
        let name = format!("w{}", n + 1);
        let host = host(self.net.as_ref(), n + 1);
        let worker = [
            "worker",
            "--coordinator",
            &self.address,
            "--name",
            &name,
            "--threads",
            "1",
            "--data-host",
            &host,
        ];
        let mut command = rekindle_in(self.namespace(n + 1).as_deref(), &worker);
        command.args(&self.worker_args).stdout(Stdio::null());
        command.stderr(log(&self.state_dir.with_file_name(format!("{name}.log"))));
        Service::start(command)
    }

    fn namespace(&self, node: usize) -> Option<String> {
        self.net.as_ref().map(|net| net.namespace(node))
    }

    /// Starts a coordinator in the place of one that has ended.
    pub fn new_coordinator(&mut self) {
        let listen = self.address.trim_start_matches("http://").to_owned();
        let namespace = self.namespace(net::COORDINATOR);
        let (again, address) = start_coordinator(
            namespace.as_deref(),
            &self.state_dir,
            &listen,
            &self.coordinator_args,
        );
        self.coordinator = again;
        assert_eq!(address, self.address);
    }

    /// Runs a command against the coordinator.
    #[must_use]
    pub fn call(&self, args: &[&str]) -> Finished {
        let mut all = args.to_vec();
        all.extend(["--coordinator", &self.address]);
        finish(rekindle_in(self.namespace(net::COORDINATOR).as_deref(), &all))
    }

    /// Submits a job; its id.
    #[must_use]
    pub fn submit(&self, job: &Path) -> String {
        self.submit_with(job, &[])
    }

    /// The same with more options.
    #[must_use]
    pub fn submit_with(&self, job: &Path, options: &[&str]) -> String {
        let job = job.display().to_string();
        let done = self.call(&[&["submit", &job, "-o", "json"], options].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
        let value: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        value["job"].as_str().unwrap().to_owned()
    }

    /// All running trainers.
    #[must_use]
    pub fn trainers(&self) -> Vec<u32> {
        self.workers
            .iter()
            .flat_map(|worker| children(worker.pid()))
            .collect()
    }

    /// A running trainer of worker `n`.
    #[must_use]
    pub fn trainer(&self, n: usize) -> u32 {
        let parent = self.workers[n].pid();
        until("the start of a trainer", || children(parent).pop())
    }
}

/// The file that a process logs to, behind what is there already.
fn log(path: &Path) -> std::fs::File {
    let folder = path.parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap()
}

/// Where a node of a network is reached.
fn host(net: Option<&Net>, node: usize) -> String {
    net.map_or_else(|| "127.0.0.1".to_owned(), |net| net.address(node))
}

/// Starts a coordinator and says where it listens.
fn start_coordinator(
    namespace: Option<&str>,
    state_dir: &Path,
    listen: &str,
    more: &[String],
) -> (Service, String) {
    let place = state_dir.display().to_string();
    let coordinator = [
        "coordinator",
        "-o",
        "json",
        "--listen",
        listen,
        "--state-dir",
        &place,
    ];
    let mut command = rekindle_in(namespace, &coordinator);
    command.args(more).stdout(Stdio::piped());
    command.stderr(log(&state_dir.with_file_name("coordinator.log")));
    let mut service = Service::start(command);
    let mut line = String::new();
    BufReader::new(service.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    (service, value["listening"].as_str().unwrap().to_owned())
}
