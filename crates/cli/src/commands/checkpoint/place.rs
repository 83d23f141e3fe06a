//! From what a person names to a place and a step.

use std::path::Path;

use clap::Args;
use rekindle_checkpoint::{Blocking, Checkpoint, Location};
use rekindle_types::spec::is_checkpoint_url;

use crate::problem::Problem;

/// A place of checkpoints.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// A run's folder, or a folder or URL of checkpoints
    #[arg(value_name = "PLACE")]
    pub place: String,
}

/// One checkpoint.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// A checkpoint (…/step-00000050), or a place of checkpoints
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: String,
    /// Which of the place (default: the newest that is valid)
    #[arg(long, value_name = "N")]
    pub step: Option<u64>,
}

/// Opens a place.
///
/// # Errors
/// It isn't one, or can't be opened.
pub fn open(text: &str) -> Result<Blocking, Problem> {
    let failed = |e: &dyn std::fmt::Display| Problem::new(format!("can't use {text}")).cause(e);
    let location = Location::parse(&inside(text)).map_err(|e| failed(&e))?;
    if let Some(folder) = location.folder()
        && !folder.is_dir()
    {
        return Err(Problem::new(format!("there are no checkpoints in {text}"))
            .cause("there is no such folder")
            .fix("name a run's folder, or a folder or URL of checkpoints"));
    }
    Blocking::open(&location).map_err(|e| failed(&e))
}

/// A run's folder has its checkpoints in a folder of that name.
fn inside(text: &str) -> String {
    let local = Path::new(text.strip_prefix("file://").unwrap_or(text));
    let inner = local.join("checkpoints");
    if inner.is_dir() {
        inner.display().to_string()
    } else {
        text.to_owned()
    }
}

/// Opens one checkpoint.
///
/// # Errors
/// There is none, or it can't be used.
pub fn one(args: &OneArgs) -> Result<Checkpoint, Problem> {
    let text = &args.checkpoint;
    let failed = |e: rekindle_checkpoint::StateError| Problem::new(format!("can't use {text}")).cause(e);
    if is_checkpoint_url(text) {
        return Blocking::checkpoint_at(text).map_err(failed);
    }
    let place = open(text)?;
    if let Some(step) = args.step {
        return place.checkpoint(step).map_err(failed);
    }
    let (found, refused) = place.newest_valid(&|_| Ok(())).map_err(failed)?;
    found.ok_or_else(|| {
        let why = refused.iter().map(ToString::to_string).collect::<Vec<_>>();
        let none = Problem::new(format!("there is no valid checkpoint in {text}"));
        if why.is_empty() {
            none
        } else {
            none.cause(why.join("; "))
        }
    })
}
