//! `rekindle logs JOB`

use clap::Args;
use rekindle_client::LogQuery;
use serde::Serialize;

use crate::args::Remote;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::remote;

/// Arguments of `rekindle logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The job's id
    job: String,
    /// Wait for more until the job has ended
    #[arg(short, long)]
    follow: bool,
    /// Only processes whose log's name contains this, for instance `worker-2` or `rank0`
    #[arg(long, value_name = "TEXT")]
    process: Option<String>,
    /// Only the last so many lines of each log
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Serialize)]
struct Line<'a> {
    process: &'a str,
    text: &'a str,
}

/// Prints log lines, each with its process.
///
/// # Errors
/// There is no such job, or the coordinator can't be reached.
pub async fn run(args: LogsArgs, format: Format) -> Result<Exit, Problem> {
    let id = remote::job_id(&args.job)?;
    let client = remote::connect(&args.remote).await?;
    let failed = |e| remote::problem(&format!("can't show the logs of job {id}"), &e);
    let query = LogQuery {
        process: None,
        tail_lines: args.tail,
        follow: args.follow,
    };
    let mut feed = client.logs(&id, query).await.map_err(failed)?;
    while let Some(line) = feed.next().await.map_err(failed)? {
        if args
            .process
            .as_ref()
            .is_some_and(|wanted| !line.process.contains(wanted))
        {
            continue;
        }
        match format {
            Format::Json => output::json(&Line {
                process: &line.process,
                text: &line.text,
            })?,
            Format::Table => output::data(&format!("{} | {}", line.process, line.text))?,
        }
    }
    Ok(Exit::Ok)
}
