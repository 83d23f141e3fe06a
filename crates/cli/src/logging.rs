//! `tracing`, set up in one place for all processes: to stderr, pretty or JSON, at a level from the command line or
//! `RUST_LOG`.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::problem::Problem;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// As given on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}

/// What every service lets one say about its log.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or directives like `info,rekindle_transport=debug`
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
}

/// Starts logging to stderr.
///
/// # Errors
/// The level isn't one.
pub fn start(args: &LogArgs) -> Result<(), Problem> {
    let filter = EnvFilter::try_new(&args.log_level).map_err(|e| {
        Problem::new(format!("--log-level {:?} is not usable", args.log_level))
            .cause(e)
            .fix("use error, warn, info, debug or trace")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && crate::output::stderr_color());
    let started = match args.log_format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| Problem::new("can't start logging").cause(e))
}
