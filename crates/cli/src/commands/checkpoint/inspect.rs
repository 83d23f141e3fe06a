//! `rekindle checkpoint inspect CHECKPOINT`

use clap::Args;
use rekindle_checkpoint::Manifest;

use super::place::{self, OneArgs};
use super::size;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// Arguments of `rekindle checkpoint inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    one: OneArgs,
}

/// Shows the manifest.
///
/// # Errors
/// There is no such checkpoint, or it can't be used.
pub fn run(args: &InspectArgs, format: Format) -> Result<Exit, Problem> {
    let checkpoint = place::one(&args.one)?;
    match format {
        Format::Json => output::json(checkpoint.manifest())?,
        Format::Table => {
            output::table(
                &["WHAT", "VALUE"],
                facts(&checkpoint.url(), checkpoint.manifest()),
            )?;
            output::data("")?;
            output::table(&["FILE", "SIZE", "HOLDS"], files(checkpoint.manifest()))?;
        }
    }
    Ok(Exit::Ok)
}

fn facts(url: &str, manifest: &Manifest) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("checkpoint", url.to_owned());
    row("step", manifest.step.to_string());
    row("tokens", manifest.tokens.to_string());
    row("job", format!("{} {}", manifest.job, manifest.epoch));
    row("parameters", manifest.model.parameters().to_string());
    row("size", size(manifest.total_bytes));
    row("state digest", manifest.state_digest.to_string());
    let topology = &manifest.topology;
    row(
        "written by",
        format!(
            "{} stages x {} lanes, rekindle {}",
            topology.stages.len(),
            topology.lanes,
            manifest.program
        ),
    );
    row("schema", manifest.schema_version.to_string());
    if let Some(from) = &manifest.lineage.resumed_from {
        row("went on from", format!("step {}, {}", from.step, from.url));
    }
    if let Some(from) = &manifest.lineage.imported_from {
        row("imported from", from.clone());
    }
    rows
}

fn files(manifest: &Manifest) -> Vec<Vec<String>> {
    let row = |file: &rekindle_types::FileEntry| {
        let holds: Vec<String> = file
            .sections
            .iter()
            .map(|s| format!("{} of {} [{}..{}]", s.kind, s.layer, s.start, s.end))
            .collect();
        vec![file.path.clone(), size(file.bytes), holds.join(", ")]
    };
    manifest.files.iter().map(row).collect()
}
