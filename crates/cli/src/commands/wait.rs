//! `rekindle wait JOB`

use std::time::Duration;

use clap::Args;
use rekindle_client::WatchUpdate;

use crate::args::Remote;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::{follow, remote};

/// Arguments of `rekindle wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The job's id
    job: String,
    /// Give up after so many seconds; the job goes on (default: never)
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// Waits in silence; the exit status says how the job ended.
///
/// # Errors
/// There is no such job, or the coordinator has gone for good.
pub async fn run(args: WaitArgs, format: Format) -> Result<Exit, Problem> {
    let id = remote::job_id(&args.job)?;
    let client = remote::connect(&args.remote).await?;
    let failed = |e| remote::problem(&format!("can't wait for job {id}"), &e);
    let mut watch = client.watch(&id).await.map_err(failed)?;
    let ended = async {
        while let Some(update) = watch.next().await? {
            let (WatchUpdate::Snapshot(job) | WatchUpdate::Changed(job)) = update else {
                continue;
            };
            if job.state.is_terminal() {
                break;
            }
        }
        Ok(())
    };
    let limit = Duration::from_secs(args.timeout.unwrap_or(u64::from(u32::MAX)));
    if let Ok(result) = tokio::time::timeout(limit, ended).await {
        result.map_err(failed)?;
    }
    let job = client.get(&id).await.map_err(failed)?;
    follow::say_end(&job);
    if format == Format::Json {
        output::json(&job)?;
    }
    Ok(Exit::of_job(job.state))
}
