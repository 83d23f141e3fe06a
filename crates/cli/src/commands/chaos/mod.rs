//! `rekindle chaos`: faults on request, and what they cost. What comes when is decided in [`crate::chaos`].

mod follow;
mod run;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use rekindle_client::{Client, ClientError};
use rekindle_types::{FaultKind, FaultTarget};
use serde::Serialize;

use crate::args::Remote;
use crate::exit::Exit;
use crate::local::RunFolder;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::remote;

/// What `rekindle chaos` can do.
#[derive(Debug, Subcommand)]
pub enum ChaosCommand {
    /// Inject seeded faults until a time is over or a job has ended, then say what they cost
    Run(run::RunArgs),
    /// List what faults can be done to
    Targets(TargetsArgs),
}

/// Arguments of `rekindle chaos targets`.
#[derive(Debug, Args)]
pub struct TargetsArgs {
    #[command(flatten)]
    place: Place,
}

/// Which cluster.
#[derive(Debug, Args)]
pub struct Place {
    #[command(flatten)]
    remote: Remote,
    /// The folder of a `rekindle run` that is at work, in place of --coordinator
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
}

impl Place {
    /// Connects to the coordinator, and makes sure that it allows faults.
    async fn connect(&self) -> Result<(Client, Vec<FaultTarget>), Problem> {
        let mut remote = self.remote.clone();
        if let Some(folder) = &self.run {
            remote.coordinator = RunFolder::address_in(folder)?;
        }
        let client = remote::connect(&remote).await?;
        let targets = client
            .fault_targets()
            .await
            .map_err(|e| not_allowed(&client, &e))?;
        Ok((client, targets))
    }
}

fn not_allowed(client: &Client, error: &ClientError) -> Problem {
    if error.is_unimplemented() {
        return Problem::new(format!(
            "the coordinator at {} doesn't allow faults",
            client.endpoint()
        ))
        .cause("it was started without --allow-chaos")
        .fix("start coordinator and workers (or rekindle run, rekindle demo) with --allow-chaos");
    }
    remote::problem("can't list what faults can be done to", error)
}

/// Does what was asked.
///
/// # Errors
/// The coordinator can't be reached or doesn't allow faults, or a schedule can't be read.
pub async fn run(command: ChaosCommand, format: Format) -> Result<Exit, Problem> {
    match command {
        ChaosCommand::Run(args) => run::run(args, format).await,
        ChaosCommand::Targets(args) => targets(&args, format).await,
    }
}

/// A target in a list.
#[derive(Serialize)]
struct TargetRow<'a> {
    target: String,
    worker: Option<&'a str>,
    job: Option<&'a str>,
    rank: Option<u32>,
    kinds: Vec<FaultKind>,
}

fn row(target: &FaultTarget) -> TargetRow<'_> {
    let (job, rank) = match target {
        FaultTarget::Trainer { job, rank, .. } => (Some(job.as_str()), Some(rank.0)),
        FaultTarget::Coordinator | FaultTarget::Worker(_) => (None, None),
    };
    let kinds = FaultKind::ALL.iter().copied();
    TargetRow {
        target: target.to_string(),
        worker: target.worker().map(rekindle_types::WorkerId::as_str),
        job,
        rank,
        kinds: kinds.filter(|kind| kind.suits(target)).collect(),
    }
}

async fn targets(args: &TargetsArgs, format: Format) -> Result<Exit, Problem> {
    let (_, targets) = args.place.connect().await?;
    let rows: Vec<_> = targets.iter().map(row).collect();
    if format == Format::Json {
        output::json(&rows)?;
        return Ok(Exit::Ok);
    }
    let names = |kinds: &[FaultKind]| {
        let names: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
        names.join(", ")
    };
    let cells = |row: &TargetRow<'_>| vec![row.target.clone(), names(&row.kinds)];
    output::table(&["TARGET", "FAULTS"], rows.iter().map(cells).collect())?;
    Ok(Exit::Ok)
}
