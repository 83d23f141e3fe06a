//! `rekindle checkpoint …`: what can be done with the checkpoints of a place, without a coordinator.
//!
//! A place is a run's folder, a folder or URL of checkpoints, or one checkpoint in it (`…/step-00000050`).

mod clean;
mod convert;
mod diff;
mod inspect;
mod ls;
mod pin;
mod place;
mod verify;

use clap::Subcommand;

use crate::exit::Exit;
use crate::output::Format;
use crate::problem::Problem;

/// What `rekindle checkpoint` can do.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// List the checkpoints of a place, finished or not
    Ls(ls::LsArgs),
    /// Show what a checkpoint is: where it comes from, how it was written, its files
    Inspect(inspect::InspectArgs),
    /// Read a checkpoint whole and name every file and block that isn't as it was written
    Verify(verify::VerifyArgs),
    /// Compare two checkpoints: settings, layout, layers
    Diff(diff::DiffArgs),
    /// Write the weights of a checkpoint as a Hugging Face folder; also while training goes on
    ExportHf(convert::ExportArgs),
    /// Write a Hugging Face folder as the checkpoint of step 0, for model.init_from
    ImportHf(convert::ImportArgs),
    /// Delete what isn't kept: old checkpoints and what writers that died left; never the newest, nor one with a pin
    /// (pin one elsewhere that a run started from by model.init_from)
    Gc(clean::GcArgs),
    /// Keep a checkpoint whatever cleans up; without a step: list the pins
    Pin(pin::PinArgs),
    /// Take a pin away
    Unpin(pin::UnpinArgs),
}

/// Does it.
///
/// # Errors
/// The place or checkpoint at fault, by name.
pub fn run(command: &CheckpointCommand, format: Format) -> Result<Exit, Problem> {
    match command {
        CheckpointCommand::Ls(args) => ls::run(args, format),
        CheckpointCommand::Inspect(args) => inspect::run(args, format),
        CheckpointCommand::Verify(args) => verify::run(args, format),
        CheckpointCommand::Diff(args) => diff::run(args, format),
        CheckpointCommand::ExportHf(args) => convert::export(args, format),
        CheckpointCommand::ImportHf(args) => convert::import(args, format),
        CheckpointCommand::Gc(args) => clean::run(args, format),
        CheckpointCommand::Pin(args) => pin::run(args, format),
        CheckpointCommand::Unpin(args) => pin::unpin(args, format),
    }
}

/// `3.1 MiB`.
fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// Milliseconds since 1970, by this machine's clock.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
