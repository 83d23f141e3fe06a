//! `rekindle submit JOB.toml`

use std::path::PathBuf;

use clap::Args;
use rekindle_client::Submission;

use crate::args::Remote;
use crate::commands::status;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::shutdown::Shutdown;
use crate::{follow, job_file, remote};

/// Arguments of `rekindle submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The job file
    #[arg(value_name = "JOB.toml")]
    job: PathBuf,
    /// Stay and show it until it has ended; Ctrl-C leaves, the job goes on
    #[arg(short, long)]
    follow: bool,
    /// Makes the submission safe to repeat: the same id gives the same job
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Go on from the newest valid checkpoint in the job's place for checkpoints
    #[arg(long)]
    resume: bool,
    /// Only check the job, here and at the coordinator
    #[arg(long, conflicts_with = "follow")]
    validate_only: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Checks the job and its data here, then hands it over.
///
/// # Errors
/// The job can't be used, or the coordinator can't be reached or refuses it.
pub async fn run(args: SubmitArgs, format: Format) -> Result<Exit, Problem> {
    let spec = job_file::load(&args.job)?;
    job_file::check_data(&spec)?;
    let client = remote::connect(&args.remote).await?;
    let mut submission = Submission::new(spec);
    submission.request_id = args.request_id;
    submission.validate_only = args.validate_only;
    submission.resume = args.resume;
    let job = client
        .submit(submission)
        .await
        .map_err(|e| remote::problem("the job wasn't taken", &e))?;
    let Some(id) = job.job.clone() else {
        output::say("the job is valid");
        if format == Format::Json {
            output::json(&job)?;
        }
        return Ok(Exit::Ok);
    };
    if !args.follow {
        match format {
            Format::Json => output::json(&job)?,
            Format::Table => output::data(id.as_str())?,
        }
        output::say(&format!("follow it with: rekindle status {id} --watch"));
        return Ok(Exit::Ok);
    }
    let mut shutdown = Shutdown::listen()?;
    let ended = tokio::select! {
        ended = follow::follow(&client, &id) => ended?,
        () = shutdown.asked(1) => {
            output::say(&format!("job {id} goes on; follow it with: rekindle status {id} --watch"));
            return Ok(Exit::JobUnfinished);
        }
    };
    follow::say_end(&ended);
    status::print(&ended, format)?;
    Ok(Exit::of_job(ended.state))
}
