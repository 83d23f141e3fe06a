//! `rekindle trainer`: hidden, as only a worker has something to say to it.

use std::process::ExitCode;

use clap::Args;

use crate::logging::{self, LogArgs};
use crate::problem::Problem;

/// Arguments of `rekindle trainer`.
#[derive(Debug, Args)]
pub struct TrainerArgs {
    #[command(flatten)]
    log: LogArgs,
}

/// Trains what the worker says on stdin; logs to stderr, which the worker copies to a file.
///
/// # Errors
/// The log level isn't one.
pub fn run(args: &TrainerArgs) -> Result<ExitCode, Problem> {
    logging::start(&args.log)?;
    Ok(rekindle_worker::trainer_main())
}
