//! `rekindle worker`

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use rekindle_types::WorkerId;
use rekindle_worker::{TrainerProgram, WorkerOptions};
use rekindle_worker_core::WorkerConfig;
use tokio_util::sync::CancellationToken;

use crate::device::DeviceArgs;
use crate::exit::Exit;
use crate::local::cores;
use crate::logging::{self, LogArgs};
use crate::problem::Problem;
use crate::shutdown::Shutdown;

/// Arguments of `rekindle worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Where the coordinator is
    #[arg(
        long,
        env = "REKINDLE_COORDINATOR",
        default_value = "http://127.0.0.1:7070",
        value_name = "URL"
    )]
    coordinator: String,
    /// PEM file of the authority that signed the coordinator's certificate
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The worker's name, unique in the cluster (default: the host's name)
    #[arg(long)]
    name: Option<String>,
    /// Processor threads of a trainer (default: all cores, shared by the slots)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Trainers it may run at once
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    slots: u32,
    /// Address of this machine that other workers' trainers reach; one other than loopback needs --insecure
    #[arg(long, default_value = "127.0.0.1", value_name = "HOST")]
    data_host: String,
    /// When asked to stop (SIGTERM, Ctrl-C): how long the coordinator has to save the state of what runs here and to
    /// stop it
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    grace: u64,
    /// Folder on a memory file system for trainers' state, so that one that dies loses nothing; empty: none
    #[arg(long, default_value = "/dev/shm", value_name = "DIR")]
    shared_memory: PathBuf,
    /// Let trainers listen where others on the network reach them: training traffic is not encrypted
    #[arg(long)]
    insecure: bool,
    /// Let `rekindle chaos` kill and stop this worker and its trainers
    #[arg(long)]
    allow_chaos: bool,
    #[command(flatten)]
    log: LogArgs,
}

/// Serves until asked to stop.
///
/// # Errors
/// The options can't be used, or the coordinator refuses the worker.
pub async fn run(args: WorkerArgs) -> Result<Exit, Problem> {
    logging::start(&args.log)?;
    let options = options(&args)?;
    let name = options.config.worker.clone();
    let stop = CancellationToken::new();
    let mut shutdown = Shutdown::listen()?;
    let mut again = shutdown.clone();
    let asked = stop.clone();
    tokio::spawn(async move {
        shutdown.asked(1).await;
        asked.cancel();
    });
    let served = tokio::select! {
        served = rekindle_worker::serve(options, stop) => served,
        () = again.asked(2) => return Ok(Exit::Failed),
    };
    served.map_err(|e| Problem::new(format!("worker {name} can't go on")).cause(e))?;
    Ok(Exit::Ok)
}

/// Training traffic is plain: it leaves the machine only when that was asked for.
fn check_data_host(args: &WorkerArgs) -> Result<(), Problem> {
    let host = args.data_host.trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if loopback || args.insecure {
        return Ok(());
    }
    Err(Problem::new(format!("trainers won't listen on {host}"))
        .cause("training traffic is not encrypted, and this address may be reached by others")
        .fix("add --insecure on a network you trust, or leave --data-host out"))
}

fn options(args: &WorkerArgs) -> Result<WorkerOptions, Problem> {
    check_data_host(args)?;
    let name = args.name.clone().unwrap_or_else(host_name);
    let worker = WorkerId::new(&*name).map_err(|e| {
        Problem::new("the worker needs another name")
            .cause(e)
            .fix("give one: --name NAME")
    })?;
    let tls_ca = match &args.tls_ca {
        None => None,
        Some(path) => Some(
            std::fs::read(path)
                .map_err(|e| Problem::new(format!("can't read {}", path.display())).cause(e))?,
        ),
    };
    let program = std::env::current_exe()
        .map_err(|e| Problem::new("can't tell which program to start trainers with").cause(e))?;
    let chosen = args.device.choose()?;
    let device = chosen.first();
    tracing::info!(%device, why = chosen.why, "trainers compute on");
    let share = u32::try_from(cores()).unwrap_or(1) / args.slots;
    let config = WorkerConfig {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        data_host: args.data_host.clone(),
        threads: args.threads.unwrap_or(share.max(1)),
        device,
        slots: args.slots,
        memory_bytes: memory_bytes(),
        drain_limit: args.grace * 1_000,
        allow_chaos: args.allow_chaos,
        ..WorkerConfig::new(worker, incarnation())
    };
    let log = [
        "trainer",
        "--log-format",
        args.log.log_format.as_str(),
        "--log-level",
        &args.log.log_level,
    ];
    let trainer = TrainerProgram {
        program,
        arguments: log.iter().map(Into::into).collect(),
    };
    Ok(WorkerOptions {
        config,
        coordinator: args.coordinator.clone(),
        tls_ca,
        trainer,
        shared_memory: Some(args.shared_memory.clone()).filter(|folder| !folder.as_os_str().is_empty()),
    })
}

/// A number that no other process of this worker's name has had or will have.
fn incarnation() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// The host's name, made fit for a worker's.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = name.trim().chars().map(fit).take(63).collect();
    if name.is_empty() {
        "worker".to_owned()
    } else {
        name
    }
}

/// The machine's memory; 0 where it can't be told.
fn memory_bytes() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = info.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()
    });
    kib.map_or(0, |kib: u64| kib * 1024)
}
