//! `rekindle jobs`

use clap::Args;

use crate::args::Remote;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::remote;

/// Arguments of `rekindle jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Lists jobs, oldest first.
///
/// # Errors
/// The coordinator can't be reached.
pub async fn run(args: JobsArgs, format: Format) -> Result<Exit, Problem> {
    let client = remote::connect(&args.remote).await?;
    let jobs = client
        .list(&[])
        .await
        .map_err(|e| remote::problem("can't list the jobs", &e))?;
    if format == Format::Json {
        output::json(&jobs)?;
        return Ok(Exit::Ok);
    }
    let row = |job: &rekindle_client::JobStatus| {
        vec![
            job.job.as_ref().map_or_else(String::new, ToString::to_string),
            job.state.to_string(),
            format!("{}/{}", job.step(), job.total_steps),
            job.last_step
                .as_ref()
                .map_or_else(String::new, |s| format!("{:.4}", s.loss)),
            job.output.clone(),
        ]
    };
    output::table(
        &["JOB", "STATE", "STEP", "LOSS", "OUTPUT"],
        jobs.iter().map(row).collect(),
    )?;
    Ok(Exit::Ok)
}
