//! `rekindle metrics JOB`

use clap::Args;
use rekindle_types::StepReport;

use crate::args::Remote;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::remote;

/// Arguments of `rekindle metrics`.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// The job's id
    job: String,
    /// Wait for more until the job has ended
    #[arg(short, long)]
    follow: bool,
    /// Only steps after this one
    #[arg(long, default_value_t = 0, value_name = "STEP")]
    after: u64,
    #[command(flatten)]
    remote: Remote,
}

/// Prints the committed steps, one a line.
///
/// # Errors
/// There is no such job, or the coordinator can't be reached.
pub async fn run(args: MetricsArgs, format: Format) -> Result<Exit, Problem> {
    let id = remote::job_id(&args.job)?;
    let client = remote::connect(&args.remote).await?;
    let failed = |e| remote::problem(&format!("can't show the metrics of job {id}"), &e);
    let mut feed = client
        .metrics(&id, args.after, args.follow)
        .await
        .map_err(failed)?;
    if format == Format::Table {
        output::data(&line("STEP", "LOSS", "GRAD NORM", "LR", "TOKENS/S", "VAL LOSS"))?;
    }
    while let Some(step) = feed.next().await.map_err(failed)? {
        match format {
            Format::Json => output::json(&step)?,
            Format::Table => output::data(&describe(&step))?,
        }
    }
    Ok(Exit::Ok)
}

fn describe(step: &StepReport) -> String {
    line(
        &step.step.to_string(),
        &format!("{:.4}", step.loss),
        &format!("{:.4}", step.grad_norm),
        &format!("{:.3e}", step.lr),
        &format!("{:.0}", step.tokens as f64 / step.step_seconds.max(1e-9)),
        &step
            .val_loss
            .map_or_else(String::new, |loss| format!("{loss:.4}")),
    )
}

fn line(step: &str, loss: &str, norm: &str, lr: &str, speed: &str, val: &str) -> String {
    format!("{step:>8}{loss:>10}{norm:>11}{lr:>12}{speed:>10}{val:>10}")
        .trim_end()
        .to_owned()
}
