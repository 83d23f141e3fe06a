//! Rekindle: the one binary. Arguments in, exit status out; everything in between is a command in [`commands`].
//!
//! ```text
//!   argv --clap--> Cli --commands::dispatch--> Exit | Problem --> exit status
//! ```
//!
//! Invariants
//! - CM-1 Data goes to stdout, everything else to stderr; with `-o json` stdout holds JSON only.
//! - CM-2 The exit status is one of [`exit::Exit`]; no command panics on bad input or a closed pipe.
//! - CM-3 No child process outlives the command that started it.
//!
//! Deliberately absent: training, planning and scheduling. They are in the crates this one wires together.

mod args;
mod chaos;
mod commands;
mod device;
mod exit;
mod follow;
mod job_file;
mod local;
mod logging;
mod output;
mod problem;
mod progress;
mod remote;
mod shutdown;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but not to us; both know which stream they belong to.
            let status = if error.use_stderr() {
                exit::Exit::Usage
            } else {
                exit::Exit::Ok
            };
            return match error.print() {
                Ok(()) => status.into(),
                Err(_) => exit::Exit::Failed.into(),
            };
        }
    };
    match commands::dispatch(cli) {
        Ok(code) => code,
        Err(problem) => {
            problem.print();
            problem.exit.into()
        }
    }
}
