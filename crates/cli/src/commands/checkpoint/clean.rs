//! `rekindle checkpoint gc PLACE`

use clap::Args;
use rekindle_checkpoint::catalog::{GcReport, Kept, Policy, gc};
use serde_json::json;

use super::place::{self, PlaceArgs};
use super::{now, size};
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// Arguments of `rekindle checkpoint gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Valid checkpoints to keep, the newest ones
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_last: u32,
    /// What no manifest names (unfinished checkpoints, uploads) goes when it is older than this; a running job may be
    /// writing younger ones
    #[arg(long, default_value_t = 24.0, value_name = "HOURS")]
    unfinished_older_than: f64,
    /// Only say what would be deleted
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Cleans up.
///
/// # Errors
/// The place can't be read or written.
pub fn run(args: &GcArgs, format: Format) -> Result<Exit, Problem> {
    let hours = args.unfinished_older_than;
    if !(hours.is_finite() && hours >= 0.0) {
        return Err(Problem::new(format!(
            "--unfinished-older-than {hours} is no length of time"
        )));
    }
    let place = place::open(&args.place.place)?;
    let policy = Policy {
        keep_last: args.keep_last,
        protect: Vec::new(),
        writer: None,
        sweep_older_than_ms: (hours * 3.6e6) as u64,
        now_unix_ms: now(),
    };
    let mut report = place
        .run(gc(place.store(), &policy, args.dry_run))
        .map_err(|e| Problem::new(format!("can't clean up {}", args.place.place)).cause(e))?;
    report.deleted.sort_unstable();
    report.kept.sort_unstable_by_key(|(step, _)| *step);
    match format {
        Format::Json => output::json(&value(&report))?,
        Format::Table => print(&report)?,
    }
    Ok(Exit::Ok)
}

fn why(kept: Kept) -> &'static str {
    match kept {
        Kept::Newest => "one of the newest",
        Kept::Pinned => "pinned",
        Kept::Protected => "in use",
    }
}

fn value(report: &GcReport) -> serde_json::Value {
    let kept: Vec<_> = report
        .kept
        .iter()
        .map(|(step, kept)| json!({"step": step, "why": why(*kept)}))
        .collect();
    let broken: Vec<String> = report.broken.iter().map(ToString::to_string).collect();
    json!({
        "dry_run": report.dry_run,
        "deleted": report.deleted,
        "kept": kept,
        "broken": broken,
        "swept": report.swept,
        "uploads_removed": report.uploads.removed,
        "freed_bytes": report.freed_bytes,
    })
}

fn print(report: &GcReport) -> Result<(), Problem> {
    let done = if report.dry_run { "would go" } else { "deleted" };
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |what: String, fate: &str| rows.push(vec![what, fate.to_owned()]);
    for step in &report.deleted {
        row(format!("step {step}"), done);
    }
    for folder in &report.swept {
        row(folder.clone(), done);
    }
    for (step, kept) in &report.kept {
        row(format!("step {step}"), &format!("kept: {}", why(*kept)));
    }
    for broken in &report.broken {
        row(
            format!("step {}", broken.step),
            &format!("left for you to look at: {}", broken.why),
        );
    }
    output::table(&["WHAT", "FATE"], rows)?;
    output::say(&format!("{done}: {}", size(report.freed_bytes)));
    Ok(())
}
