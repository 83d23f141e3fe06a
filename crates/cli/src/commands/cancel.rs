//! `rekindle cancel JOB`

use clap::Args;
use rekindle_client::Cancel;

use crate::args::Remote;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::remote;

/// Arguments of `rekindle cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The job's id
    job: String,
    /// Don't save the job's state first
    #[arg(long)]
    no_save: bool,
    /// Don't save, and don't wait for the trainers to end by themselves
    #[arg(long, conflicts_with = "no_save")]
    now: bool,
    #[command(flatten)]
    remote: Remote,
}

fn how(args: &CancelArgs) -> Cancel {
    match (args.now, args.no_save) {
        (true, _) => Cancel::Now,
        (false, true) => Cancel::Stop,
        (false, false) => Cancel::Save,
    }
}

/// Cancels; `rekindle wait` waits for the end.
///
/// # Errors
/// There is no such job, it has ended, or the coordinator can't be reached.
pub async fn run(args: CancelArgs, format: Format) -> Result<Exit, Problem> {
    let id = remote::job_id(&args.job)?;
    let client = remote::connect(&args.remote).await?;
    let job = client
        .cancel(&id, how(&args))
        .await
        .map_err(|e| remote::problem(&format!("can't cancel job {id}"), &e))?;
    match format {
        Format::Json => output::json(&job)?,
        Format::Table => output::data(&format!("{id} {}", job.state))?,
    }
    Ok(Exit::Ok)
}
