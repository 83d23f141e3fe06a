//! `rekindle checkpoint diff A B`

use clap::Args;
use rekindle_checkpoint::catalog::{Diff, LayerDiff, diff};
use serde_json::{Value, json};

use super::place::{self, OneArgs};
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// Arguments of `rekindle checkpoint diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A checkpoint, or a place (its newest valid one)
    a: String,
    /// Another
    b: String,
    /// Read the layers that differ, count the elements that do, and say by how much at most
    #[arg(long)]
    values: bool,
}

/// Compares. The exit status is 1 when the states differ.
///
/// # Errors
/// A checkpoint can't be read.
pub fn run(args: &DiffArgs, format: Format) -> Result<Exit, Problem> {
    let one = |text: &str| {
        place::one(&OneArgs {
            checkpoint: text.to_owned(),
            step: None,
        })
    };
    let (a, b) = (one(&args.a)?, one(&args.b)?);
    let found = diff(&a, &b, args.values)
        .map_err(|e| Problem::new(format!("can't compare {} and {}", a.url(), b.url())).cause(e))?;
    match format {
        Format::Json => output::json(&value(&found))?,
        Format::Table => print(&found)?,
    }
    Ok(if found.same_state() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

fn print(found: &Diff) -> Result<(), Problem> {
    for line in found.keys.refused.iter().chain(&found.keys.noted) {
        output::data(line)?;
    }
    if let Some((a, b)) = &found.topology {
        output::data(&format!(
            "layout: {} stages x {} lanes, {} stages x {} lanes",
            a.stages.len(),
            a.lanes,
            b.stages.len(),
            b.lanes
        ))?;
    }
    let differing: Vec<Vec<String>> = found
        .layers
        .iter()
        .filter(|l| l.same != Some(true))
        .map(row)
        .collect();
    if differing.is_empty() {
        output::data("the states are the same, bit for bit")
    } else {
        output::table(&["LAYER", "KIND", "STATE", "DIFFERING", "AT MOST"], differing)
    }
}

fn row(layer: &LayerDiff) -> Vec<String> {
    let state = match layer.same {
        Some(true) => "same",
        Some(false) => "differs",
        None => "not in both",
    };
    let (differing, largest) = layer.values.map_or((String::new(), String::new()), |v| {
        (
            format!("{} of {}", v.differing, v.elements),
            format!("{:e}", v.largest),
        )
    });
    vec![
        layer.layer.to_string(),
        layer.kind.to_string(),
        state.to_owned(),
        differing,
        largest,
    ]
}

fn value(found: &Diff) -> Value {
    let layers: Vec<Value> = found
        .layers
        .iter()
        .map(|l| {
            json!({
                "layer": l.layer.to_string(),
                "kind": l.kind,
                "same": l.same,
                "elements": l.values.map(|v| v.elements),
                "differing": l.values.map(|v| v.differing),
                "largest": l.values.map(|v| v.largest),
            })
        })
        .collect();
    json!({
        "same_state": found.same_state(),
        "model": found.keys.refused,
        "settings": found.keys.noted,
        "topology": found.topology,
        "layers": layers,
    })
}
