//! `rekindle checkpoint ls PLACE`

use clap::Args;
use rekindle_checkpoint::catalog::{Condition, Summary, list};
use serde_json::{Value, json};

use super::place::{self, PlaceArgs};
use super::{now, size};
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::progress::duration;

/// Arguments of `rekindle checkpoint ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

/// Lists.
///
/// # Errors
/// The place can't be read.
pub fn run(args: &LsArgs, format: Format) -> Result<Exit, Problem> {
    let place = place::open(&args.place.place)?;
    let found = place.run(list(place.store()));
    let found = found.map_err(|e| Problem::new(format!("can't list {}", args.place.place)).cause(e))?;
    match format {
        Format::Json => output::json(&found.iter().map(value).collect::<Vec<_>>())?,
        Format::Table => output::table(
            &["STEP", "STATE", "SIZE", "AGE", "LAYOUT", "DIGEST", "PINS"],
            found.iter().map(row).collect(),
        )?,
    }
    Ok(Exit::Ok)
}

fn row(summary: &Summary) -> Vec<String> {
    let age = now().saturating_sub(summary.modified_unix_ms) as f64 / 1e3;
    let (state, layout, digest) = match &summary.condition {
        Condition::Valid(facts) => {
            let topology = &facts.topology;
            let layout = format!("{} x {}", topology.stages.len(), topology.lanes);
            ("valid".to_owned(), layout, facts.state_digest.to_string())
        }
        Condition::Unfinished => ("unfinished".to_owned(), String::new(), String::new()),
        Condition::Broken(why) => (format!("broken: {why}"), String::new(), String::new()),
    };
    vec![
        summary.step.to_string(),
        state,
        size(summary.bytes),
        duration(age),
        layout,
        digest,
        summary.pins.join(", "),
    ]
}

fn value(summary: &Summary) -> Value {
    let mut value = json!({
        "step": summary.step,
        "state": "valid",
        "files": summary.files,
        "bytes": summary.bytes,
        "modified_unix_ms": summary.modified_unix_ms,
        "pins": summary.pins,
    });
    match &summary.condition {
        Condition::Valid(facts) => {
            value["job"] = json!(facts.job);
            value["epoch"] = json!(facts.epoch);
            value["writer"] = json!(facts.writer);
            value["tokens"] = json!(facts.tokens);
            value["created_unix_ms"] = json!(facts.created_unix_ms);
            value["parameters"] = json!(facts.parameters);
            value["topology"] = json!(facts.topology);
            value["state_digest"] = json!(facts.state_digest);
        }
        Condition::Unfinished => value["state"] = json!("unfinished"),
        Condition::Broken(why) => {
            value["state"] = json!("broken");
            value["why"] = json!(why);
        }
    }
    value
}
