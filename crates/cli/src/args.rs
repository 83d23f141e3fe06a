//! The command line: one variant per command; each command's own arguments are in its file under [`crate::commands`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::output::Format;

/// Trains language models across pipeline workers, exactly.
#[derive(Debug, Parser)]
#[command(
    name = "rekindle",
    version,
    about,
    propagate_version = true,
    after_help = "Start here:\n  rekindle demo                      train a small model on text this machine has\n  \
        rekindle run JOB.toml --workers 4  train your own job on this machine\n\n\
        Exit status: 0 done, 1 failed, 2 wrong usage; where a job is followed: 100 it failed, 101 it hasn't ended,\n\
        102 there is no such job, 103 it was cancelled."
)]
pub struct Cli {
    /// How data is printed: a table for people or JSON for programs
    #[arg(
        short = 'o',
        long = "format",
        value_enum,
        global = true,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub format: Format,
    #[command(subcommand)]
    pub command: Command,
}

/// How to reach the coordinator.
#[derive(Debug, Clone, Args)]
pub struct Remote {
    /// Where the coordinator is
    #[arg(
        long,
        env = "REKINDLE_COORDINATOR",
        default_value = "http://127.0.0.1:7070",
        value_name = "URL"
    )]
    pub coordinator: String,
    /// PEM file of the authority that signed the coordinator's certificate
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
}

/// Everything the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a small model on text this machine has, on a local cluster
    Demo(commands::demo::DemoArgs),
    /// Train a job on a local cluster that lives as long as the job
    Run(commands::run::RunArgs),
    /// Serve the coordinator
    Coordinator(commands::coordinator::CoordinatorArgs),
    /// Serve a worker
    Worker(commands::worker::WorkerArgs),
    /// Compute one rank of a job; started by a worker, talks to it over stdin and stdout
    #[command(hide = true)]
    Trainer(commands::trainer::TrainerArgs),
    /// Hand a job to the coordinator
    Submit(commands::submit::SubmitArgs),
    /// Show what a job would look like: layer cut, bubble, memory, bytes on each link
    Plan(commands::plan::PlanArgs),
    /// List jobs
    Jobs(commands::jobs::JobsArgs),
    /// Show where a job stands
    Status(commands::status::StatusArgs),
    /// Show a job's history
    Events(commands::events::EventsArgs),
    /// Tell what a job lost and what became of it
    Explain(commands::explain::ExplainArgs),
    /// Show what a job's processes logged
    Logs(commands::logs::LogsArgs),
    /// Show a job's committed steps
    Metrics(commands::metrics::MetricsArgs),
    /// Wait until a job has ended
    Wait(commands::wait::WaitArgs),
    /// Cancel a job
    Cancel(commands::cancel::CancelArgs),
    /// List workers
    Workers(commands::workers::WorkersArgs),
    /// Continue a text with a trained model
    Generate(commands::generate::GenerateArgs),
    /// List, check, compare, convert and clean up checkpoints
    #[command(subcommand)]
    Checkpoint(commands::checkpoint::CheckpointCommand),
    /// Prepare and look at data
    #[command(subcommand)]
    Data(commands::data::DataCommand),
    /// Inject faults into a cluster that was started with --allow-chaos, and say what they cost
    #[command(subcommand)]
    Chaos(commands::chaos::ChaosCommand),
    /// Run the real control code on a virtual cluster
    #[command(subcommand)]
    Sim(commands::sim::SimCommand),
    /// Measure what recovery methods cost
    #[command(subcommand)]
    Experiment(commands::experiment::ExperimentCommand),
    /// Measure how fast this machine trains
    #[command(subcommand)]
    Bench(commands::bench::BenchCommand),
    /// Show what this machine has to train on: CPU, GPUs, CUDA's libraries, and what is missing
    Doctor(commands::doctor::DoctorArgs),
    /// Print versions
    Version(commands::version::VersionArgs),
    /// Print a completion script
    Completion(commands::completion::CompletionArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
