//! `rekindle checkpoint verify CHECKPOINT`

use clap::Args;
use serde_json::json;

use super::place::{self, OneArgs};
use super::size;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::progress::Bar;

/// Arguments of `rekindle checkpoint verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    one: OneArgs,
}

/// Reads all of it. The exit status is 1 when anything is damaged.
///
/// # Errors
/// There is no such checkpoint, or its store doesn't answer.
pub fn run(args: &VerifyArgs, format: Format) -> Result<Exit, Problem> {
    let checkpoint = place::one(&args.one)?;
    let bar = Bar::bytes("verifying");
    let progress = |done, total| bar.set(done, total);
    let verdict = checkpoint.verify(Some(&progress));
    drop(bar);
    let verdict = verdict.map_err(|e| Problem::new(format!("can't verify {}", checkpoint.url())).cause(e))?;
    let damages: Vec<String> = verdict.damages.iter().map(ToString::to_string).collect();
    match format {
        Format::Json => output::json(&json!({
            "checkpoint": checkpoint.url(),
            "step": checkpoint.manifest().step,
            "good": verdict.is_good(),
            "damage_count": verdict.damage_count,
            "damages": damages,
            "state_digest": verdict.state_digest,
            "bytes": verdict.report.bytes_read,
            "seconds": verdict.report.seconds,
        }))?,
        Format::Table => {
            for damage in &damages {
                output::data(damage)?;
            }
            let (bytes, seconds) = (verdict.report.bytes_read, verdict.report.seconds);
            let rate = size((bytes as f64 / seconds.max(1e-9)) as u64);
            let found = match verdict.damage_count {
                0 => format!("good, digest {}", verdict.state_digest),
                1 => "1 damage".to_owned(),
                n => format!("{n} damages"),
            };
            output::data(&format!(
                "{}: {found} ({} at {rate}/s)",
                checkpoint.url(),
                size(bytes)
            ))?;
        }
    }
    Ok(if verdict.is_good() { Exit::Ok } else { Exit::Failed })
}
