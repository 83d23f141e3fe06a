//! `rekindle status JOB`

use clap::Args;
use rekindle_client::JobStatus;

use crate::args::Remote;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::progress::{draw_lanes, duration};
use crate::{follow, remote};

/// Arguments of `rekindle status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The job's id
    job: String,
    /// Watch it until it has ended; the exit status says how it ended
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Prints where the job stands.
///
/// # Errors
/// There is no such job, or the coordinator can't be reached.
pub async fn run(args: StatusArgs, format: Format) -> Result<Exit, Problem> {
    let id = remote::job_id(&args.job)?;
    let client = remote::connect(&args.remote).await?;
    let job = if args.watch {
        follow::follow(&client, &id).await?
    } else {
        client
            .get(&id)
            .await
            .map_err(|e| remote::problem(&format!("can't show job {id}"), &e))?
    };
    print(&job, format)?;
    Ok(if args.watch {
        Exit::of_job(job.state)
    } else {
        Exit::Ok
    })
}

/// Prints a job: all of it as JSON, what matters as a table.
///
/// # Errors
/// Stdout can't be written.
pub fn print(job: &JobStatus, format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        return output::json(job);
    }
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row(
        "job",
        job.job
            .as_ref()
            .map_or_else(|| job.name.clone(), ToString::to_string),
    );
    row("state", job.state.to_string());
    if !job.state_message.is_empty() {
        row("because", job.state_message.clone());
    }
    if let Some(failure) = &job.failure {
        row("failure", follow::failure_text(failure));
    }
    row("step", format!("{} of {}", job.step(), job.total_steps));
    if let Some(step) = &job.last_step {
        row("loss", format!("{:.4}", step.loss));
        row(
            "tokens/s",
            format!("{:.0}", step.tokens as f64 / step.step_seconds.max(1e-9)),
        );
    }
    for (name, text) in checkpoints(job) {
        row(name, text);
    }
    if let (Some(start), Some(end)) = (job.started_unix_ms, job.ended_unix_ms) {
        row("took", duration(end.saturating_sub(start) as f64 / 1e3));
    }
    row("output", job.output.clone());
    if let Some(plan) = &job.plan {
        row("epoch", plan.epoch.to_string());
        for line in draw_lanes(plan, job.spec.as_deref().map(|spec| &spec.model)) {
            row("", line);
        }
    }
    output::table(&["WHAT", "VALUE"], rows)
}

/// How the job's state is saved, in rows.
fn checkpoints(job: &JobStatus) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(start) = &job.start {
        rows.push(("started from", format!("step {}, {}", start.step, start.url)));
    }
    for budget in job.restart_budgets.iter().filter(|budget| budget.used > 0) {
        let after = budget
            .class
            .map_or_else(String::new, |class| format!(" after a {class}"));
        let (used, most) = (budget.used, budget.most);
        rows.push((
            "restarts",
            format!("{used} of {most}{after} without lasting progress"),
        ));
    }
    if let Some(last) = job.rebuilt.iter().map(|rebuilt| rebuilt.after).max() {
        let layers = job.rebuilt.len();
        let text = format!("{layers} layers were made up of others, the last after step {last}");
        rows.push(("approximate", text));
    }
    let Some(status) = &job.checkpoints else {
        return rows;
    };
    let every = match status.interval_steps {
        Some(1) => "every step".to_owned(),
        Some(steps) => format!("every {steps} steps"),
        None => "automatic; the interval isn't known yet".to_owned(),
    };
    rows.push(("checkpoints", every));
    if let Some(newest) = &status.newest {
        rows.push(("newest", format!("step {}, {}", newest.step, newest.url)));
    }
    if let Some(failure) = &status.last_failure {
        rows.push((
            "failed",
            format!("{} since then; the last: {failure}", status.failures),
        ));
    }
    rows
}
