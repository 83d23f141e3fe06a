//! `rekindle checkpoint export-hf` and `import-hf`

use std::path::PathBuf;

use clap::Args;
use rekindle_checkpoint::catalog::{ImportOptions, export_hf, import_hf};
use rekindle_types::JobId;
use serde_json::json;

use super::place::{self, OneArgs};
use super::{now, size};
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::progress::Bar;

/// Arguments of `rekindle checkpoint export-hf`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    one: OneArgs,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// `bytes` or the path of a tokenizer.json (default: as the run had it)
    #[arg(long, value_name = "TOKENIZER")]
    tokenizer: Option<String>,
}

/// Exports.
///
/// # Errors
/// The checkpoint can't be read, or the folder can't be written.
pub fn export(args: &ExportArgs, format: Format) -> Result<Exit, Problem> {
    let checkpoint = place::one(&args.one)?;
    let recipe = checkpoint.manifest().recipe.as_ref();
    let own = recipe.and_then(|recipe| recipe.data["tokenizer"].as_str());
    let tokenizer = args.tokenizer.as_deref().or(own).unwrap_or("bytes");
    let bar = Bar::things("exporting");
    let mut progress = |done: usize, total: usize| bar.set(done as u64, total as u64);
    let exported = export_hf(&checkpoint, &args.out, tokenizer, &mut progress);
    drop(bar);
    exported.map_err(|e| Problem::new(format!("can't export {}", checkpoint.url())).cause(e))?;
    let folder = args.out.display().to_string();
    match format {
        Format::Json => output::json(&json!({
            "checkpoint": checkpoint.url(),
            "step": checkpoint.manifest().step,
            "folder": folder,
        }))?,
        Format::Table => output::data(&folder)?,
    }
    Ok(Exit::Ok)
}

/// Arguments of `rekindle checkpoint import-hf`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The Hugging Face folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The folder or URL of checkpoints to write to
    #[arg(value_name = "PLACE")]
    place: String,
}

/// Imports.
///
/// # Errors
/// The folder isn't one of a model, or the place can't be written or has a checkpoint of step 0.
pub fn import(args: &ImportArgs, format: Format) -> Result<Exit, Problem> {
    let failed = |e: &dyn std::fmt::Display| {
        Problem::new(format!(
            "can't import {} into {}",
            args.folder.display(),
            args.place
        ))
        .cause(e)
    };
    let location = rekindle_checkpoint::Location::parse(&args.place).map_err(|e| failed(&e))?;
    let place = rekindle_checkpoint::Blocking::open(&location).map_err(|e| failed(&e))?;
    let options = ImportOptions {
        job: JobId::new("import").map_err(|e| failed(&e))?,
        now_unix_ms: now(),
    };
    let bar = Bar::things("importing");
    let mut progress = |done: usize, total: usize| bar.set(done as u64, total as u64);
    let imported = place.run(import_hf(&args.folder, place.store(), &options, &mut progress));
    drop(bar);
    let manifest = imported.map_err(|e| failed(&e))?;
    let folder = rekindle_checkpoint::format::step_folder(manifest.step);
    let url = place.store().url_of(&folder);
    match format {
        Format::Json => output::json(&json!({
            "checkpoint": url,
            "bytes": manifest.total_bytes,
            "state_digest": manifest.state_digest,
        }))?,
        Format::Table => output::data(&url)?,
    }
    output::say(&format!(
        "{} written; use it: model.init_from = {url:?}",
        size(manifest.total_bytes)
    ));
    Ok(Exit::Ok)
}
