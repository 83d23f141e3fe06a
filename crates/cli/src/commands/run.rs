//! `rekindle run JOB.toml`: the job on a cluster of this machine's processes that lives as long as the job.

use std::path::{Path, PathBuf};

use clap::Args;
use rekindle_client::JobStatus;
use rekindle_types::{JobSpec, JobState};
use serde::Serialize;

use crate::commands::plan;
use crate::device::DeviceArgs;
use crate::exit::Exit;
use crate::local::{self, ClusterOptions, Outcome, RunFolder};
use crate::logging::LogFormat;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::shutdown::Shutdown;
use crate::{follow, job_file};

/// Arguments of `rekindle run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The job file
    #[arg(value_name = "JOB.toml")]
    job: PathBuf,
    /// Worker processes
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// Processor threads of a trainer (default: all cores, shared by the trainers)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Print one JSON summary; the same as -o json
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    children: ChildArgs,
}

/// How the child processes are started.
#[derive(Debug, Clone, Args)]
pub struct ChildArgs {
    /// How the log lines of the child processes look
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// What the child processes log: error, warn, info, debug, trace, or directives
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "LEVEL")]
    log_level: String,
    /// Let `rekindle chaos` kill and stop the child processes
    #[arg(long)]
    allow_chaos: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// What a run came to.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The job's id.
    pub job: Option<String>,
    /// Where it ended.
    pub state: Option<JobState>,
    /// The last committed step.
    pub step: u64,
    /// Steps it was to make.
    pub total_steps: u64,
    /// Loss of the last step, nats per token.
    pub final_loss: Option<f64>,
    /// Digest of weights and moments after the last step.
    pub state_digest: Option<String>,
    /// From start to end.
    pub seconds: f64,
    /// The run's folder.
    pub output: PathBuf,
    /// The exported model, if there is one.
    pub hf: Option<PathBuf>,
    /// Why it failed.
    pub failure: Option<rekindle_types::Failure>,
}

/// Trains the job.
///
/// # Errors
/// The job or its data can't be used, or the cluster can't be started.
pub async fn run(args: RunArgs, format: Format) -> Result<Exit, Problem> {
    let spec = job_file::load(&args.job)?;
    job_file::check_data(&spec)?;
    let folder = RunFolder::take(&spec)?;
    if folder.resume {
        output::say("the folder holds a run; going on from its newest checkpoint");
    }
    let options = cluster_options(&spec, &folder, args.workers, args.threads, &args.children)?;
    let shutdown = Shutdown::listen()?;
    let outcome = local::train(spec.clone(), folder, options, &[], &shutdown).await?;
    let summary = summary(&spec, &outcome);
    if args.json || format == Format::Json {
        output::json(&summary)?;
    } else {
        print(&summary)?;
    }
    Ok(exit(&outcome))
}

/// A cluster that the job fits on: checked before anything is started.
///
/// # Errors
/// No plan is possible, or the device can't be used.
pub fn cluster_options(
    spec: &JobSpec,
    run: &RunFolder,
    workers: u32,
    threads: Option<u32>,
    children: &ChildArgs,
) -> Result<ClusterOptions, Problem> {
    let trainers = plan::wanted(spec).max(workers);
    let slots = trainers.div_ceil(workers);
    plan::report(spec, workers * slots)?;
    let share = u32::try_from(local::cores()).unwrap_or(1) / trainers;
    Ok(ClusterOptions {
        workers,
        slots,
        threads: threads.unwrap_or(share.max(1)),
        devices: children.device.choose()?,
        state_dir: run.state_dir.clone(),
        logs: spec.job.folder().join("logs"),
        log_level: children.log_level.clone(),
        log_format: children.log_format.as_str(),
        allow_chaos: children.allow_chaos,
    })
}

/// The run in figures.
#[must_use]
pub fn summary(spec: &JobSpec, outcome: &Outcome) -> Summary {
    let job = outcome.job.as_ref();
    let last = job.and_then(|job| job.last_step.as_ref());
    let hf = spec.job.folder().join("hf");
    Summary {
        job: job.and_then(|job| job.job.as_ref()).map(ToString::to_string),
        state: job.map(|job| job.state),
        step: job.map_or(0, JobStatus::step),
        total_steps: spec.training.steps,
        final_loss: last.map(|step| step.loss),
        state_digest: last.and_then(|step| step.state_digest.clone()),
        seconds: outcome.seconds,
        output: spec.job.folder().to_path_buf(),
        hf: job
            .filter(|job| job.state == JobState::Succeeded && is_folder(&hf))
            .map(|_| hf.clone()),
        failure: job.and_then(|job| job.failure.clone()),
    }
}

fn is_folder(path: &Path) -> bool {
    path.is_dir()
}

/// Tells a person how the run ended.
fn print(summary: &Summary) -> Result<(), Problem> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row(
        "state",
        summary
            .state
            .map_or_else(|| "stopped".to_owned(), |s| s.to_string()),
    );
    if let Some(failure) = &summary.failure {
        row("failure", follow::failure_text(failure));
    }
    row("steps", format!("{} of {}", summary.step, summary.total_steps));
    if let Some(loss) = summary.final_loss {
        row("loss", format!("{loss:.4} nats per token"));
    }
    if let Some(digest) = &summary.state_digest {
        row("state digest", digest.clone());
    }
    row("took", crate::progress::duration(summary.seconds));
    row("run", summary.output.display().to_string());
    if let Some(hf) = &summary.hf {
        row("model", hf.display().to_string());
    }
    output::table(&["WHAT", "VALUE"], rows)
}

/// The exit status of a run.
#[must_use]
pub fn exit(outcome: &Outcome) -> Exit {
    outcome
        .job
        .as_ref()
        .map_or(Exit::JobUnfinished, |job| Exit::of_job(job.state))
}
