//! `rekindle bench`: how fast this machine trains, beside what its device can do.

mod capture;
mod model;
mod report;
mod steps;
mod train;

use clap::Subcommand;

use crate::exit::Exit;
use crate::output::Format;
use crate::problem::Problem;

/// What `rekindle bench` can do.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Train a model of random weights on random tokens in this process: tokens a second, and the share of the
    /// device's peak
    Train(Box<train::TrainArgs>),
}

/// Runs the command.
///
/// # Errors
/// What the benchmark couldn't do.
pub fn run(command: &BenchCommand, format: Format) -> Result<Exit, Problem> {
    match command {
        BenchCommand::Train(args) => train::run(args, format),
    }
}
