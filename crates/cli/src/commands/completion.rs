//! `rekindle completion SHELL`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::exit::Exit;
use crate::output;
use crate::problem::Problem;

/// Arguments of `rekindle completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// Stdout can't be written.
pub fn run(args: &CompletionArgs) -> Result<Exit, Problem> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut crate::args::Cli::command(),
        "rekindle",
        &mut script,
    );
    output::data(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Ok)
}
