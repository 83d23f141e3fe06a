//! `rekindle version`

use clap::Args;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// Arguments of `rekindle version`.
#[derive(Debug, Args)]
pub struct VersionArgs {}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    target: String,
    debug: bool,
}

/// Prints the binary's version.
///
/// # Errors
/// Stdout can't be written.
pub fn run(_args: &VersionArgs, format: Format) -> Result<Exit, Problem> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        debug: cfg!(debug_assertions),
    };
    match format {
        Format::Json => output::json(&version)?,
        Format::Table => {
            let build = if version.debug { "debug" } else { "release" };
            output::data(&format!(
                "rekindle {} ({}, {build} build)",
                version.version, version.target
            ))?;
        }
    }
    Ok(Exit::Ok)
}
