//! `rekindle plan JOB.toml`: the layer cut, the bubble, memory and bytes on each link, before anything runs. Works
//! without a coordinator.

use std::path::PathBuf;

use clap::Args;
use rekindle_plan::{PlanReport, Slot};
use rekindle_types::spec::Auto;
use rekindle_types::{Epoch, JobId, JobSpec, WorkerId};

use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// Arguments of `rekindle plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The job file
    #[arg(value_name = "JOB.toml")]
    job: PathBuf,
    /// Workers of one trainer each (default: as many as the job file's parallelism asks for, 1 where it says auto)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    workers: Option<u32>,
}

/// Prints the plan.
///
/// # Errors
/// The job file can't be used, or the workers don't suffice.
pub fn run(args: &PlanArgs, format: Format) -> Result<Exit, Problem> {
    let spec = crate::job_file::load(&args.job)?;
    let report = report(&spec, args.workers.unwrap_or_else(|| wanted(&spec)))?;
    match format {
        Format::Json => output::json(&report)?,
        Format::Table => output::data(report.to_string().trim_end())?,
    }
    Ok(Exit::Ok)
}

/// Trainers the job asks for; `auto` counts as one.
#[must_use]
pub fn wanted(spec: &JobSpec) -> u32 {
    let count = |auto| match auto {
        Auto::Auto => 1,
        Auto::Count(n) => n,
    };
    count(spec.parallelism.pipeline)
        .saturating_mul(count(spec.parallelism.data))
        .max(1)
}

/// The report of the plan that the coordinator would make for this many workers with one slot each.
///
/// # Errors
/// The workers don't suffice, or there are more stages than layers.
pub fn report(spec: &JobSpec, workers: u32) -> Result<PlanReport, Problem> {
    let failed = |cause: String| Problem::new(format!("no plan for {workers} workers")).cause(cause);
    let job = JobId::new(&*spec.job.name).map_err(|e| failed(e.to_string()))?;
    let slots = (1..=workers)
        .map(|n| {
            Ok(Slot {
                worker: WorkerId::new(format!("worker-{n}"))?,
                threads: 1,
            })
        })
        .collect::<Result<Vec<_>, rekindle_types::IdError>>()
        .map_err(|e| failed(e.to_string()))?;
    let plan = rekindle_plan::place(&job, Epoch(1), spec, &slots).map_err(|e| failed(e.to_string()))?;
    Ok(rekindle_plan::report(spec, &plan))
}
