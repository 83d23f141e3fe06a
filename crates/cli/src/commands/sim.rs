//! `rekindle sim run`: the real control code on a virtual cluster with faults.

use clap::{Args, Subcommand};
use rekindle_sim::{Cut, SimConfig, SimReport};
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// What `rekindle sim` can do.
#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// Run seeds and check every rule at every moment; the same seed gives the same bytes
    Run(SimArgs),
}

/// Arguments of `rekindle sim run`.
#[derive(Debug, Args)]
pub struct SimArgs {
    /// The first seed
    #[arg(long, value_name = "N")]
    seed: u64,
    /// How many seeds to run, one after another, until one breaks a rule
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Workers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: Option<u32>,
    /// Jobs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// Faults (default: the seed draws 0 to 8)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000))]
    faults: Option<u32>,
    /// The coordinator dies once when its Nth record is durable, besides what the seed draws
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cut: Option<u64>,
    /// It dies after what waited for that record was done, not before
    #[arg(long, requires = "cut")]
    heard: bool,
    /// Print every event
    #[arg(long)]
    trace: bool,
}

#[derive(Serialize)]
struct SeedResult {
    seed: u64,
    trace_hash: String,
    events: u64,
    virtual_ms: u64,
    faults: u32,
    jobs: Vec<JobEnd>,
    violations: Vec<String>,
}

#[derive(Serialize)]
struct JobEnd {
    job: String,
    state: String,
    reason: String,
}

/// Runs the seeds.
///
/// # Errors
/// A rule was broken; the problem names it and how to see it again.
pub fn run(command: &SimCommand, format: Format) -> Result<Exit, Problem> {
    let SimCommand::Run(args) = command;
    if format == Format::Table {
        output::data(&line("SEED", "EVENTS", "VIRTUAL", "FAULTS", "TRACE", "JOBS"))?;
    }
    for seed in (args.seed..=u64::MAX).take(usize::try_from(args.seeds).unwrap_or(usize::MAX)) {
        let report = rekindle_sim::run(config(args, seed));
        print(&report, format)?;
        if let Some(violation) = report.violations.first() {
            return Err(Problem::new(format!("seed {seed} broke a rule"))
                .cause(violation)
                .fix(format!(
                    "see it again: {}{} --trace",
                    report.replay_command(),
                    changed(args)
                )));
        }
    }
    Ok(Exit::Ok)
}

fn config(args: &SimArgs, seed: u64) -> SimConfig {
    let usual = SimConfig::new(seed);
    SimConfig {
        workers: args.workers.unwrap_or(usual.workers),
        jobs: args.jobs.unwrap_or(usual.jobs),
        faults: args.faults,
        trace: args.trace,
        cut: args.cut.map(|record| Cut {
            record,
            heard: args.heard,
        }),
        ..usual
    }
}

/// The options that make this run differ from the usual one of its seed.
fn changed(args: &SimArgs) -> String {
    let options = [
        ("--workers", args.workers),
        ("--jobs", args.jobs),
        ("--faults", args.faults),
    ];
    let numbers = options
        .iter()
        .filter_map(|(name, value)| Some(format!(" {name} {}", (*value)?)));
    let cut = args.cut.map(|record| format!(" --cut {record}"));
    numbers
        .chain(cut)
        .chain(args.heard.then(|| " --heard".to_owned()))
        .collect()
}

fn print(report: &SimReport, format: Format) -> Result<(), Problem> {
    for text in &report.trace {
        if format == Format::Table {
            output::data(text)?
        } else {
            output::say(text)
        }
    }
    let jobs = report.jobs.iter().map(|(job, (state, reason))| JobEnd {
        job: job.to_string(),
        state: state.to_string(),
        reason: reason.clone(),
    });
    let hash = format!("{:016x}", report.trace_hash);
    match format {
        Format::Json => output::json(&SeedResult {
            seed: report.seed,
            trace_hash: hash,
            events: report.events,
            virtual_ms: report.virtual_ms,
            faults: report.faults,
            jobs: jobs.collect(),
            violations: report.violations.iter().map(ToString::to_string).collect(),
        }),
        Format::Table => output::data(&line(
            &report.seed.to_string(),
            &report.events.to_string(),
            &format!("{:.1}s", report.virtual_ms as f64 / 1e3),
            &report.faults.to_string(),
            &hash,
            &jobs.map(|j| j.state).collect::<Vec<_>>().join(" "),
        )),
    }
}

fn line(seed: &str, events: &str, time: &str, faults: &str, hash: &str, jobs: &str) -> String {
    format!("{seed:>8}  {events:>8}  {time:>8}  {faults:>6}  {hash:<16}  {jobs}")
}
