//! Writing: data to stdout as a table or JSON, talk to stderr, colour only where a person looks.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::problem::Problem;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON value, or one per line where a command follows something.
    Json,
}

/// Writes one line of data to stdout.
///
/// # Errors
/// Stdout can't be written.
pub fn data(line: &str) -> Result<(), Problem> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(|e| Problem::stdout(&e))
}

/// Writes `value` to stdout as one line of JSON.
///
/// # Errors
/// Stdout can't be written.
pub fn json(value: &impl Serialize) -> Result<(), Problem> {
    let line =
        serde_json::to_string(value).map_err(|e| Problem::new("can't write the answer as JSON").cause(e))?;
    data(&line)
}

/// Writes a line for a person to stderr. A stderr that can't be written is nobody's concern.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes rows under `headers` to stdout.
///
/// # Errors
/// Stdout can't be written.
pub fn table(headers: &[&str], rows: Vec<Vec<String>>) -> Result<(), Problem> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(headers.to_vec())
        .add_rows(rows);
    // Never cut or wrapped: a path or digest that was can't be copied.
    table.set_content_arrangement(ContentArrangement::Disabled);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    data(
        &table
            .lines()
            .map(|l| l.trim_end().to_owned())
            .collect::<Vec<_>>()
            .join("\n"),
    )
}

/// Whether stderr may be coloured and animated.
#[must_use]
pub fn stderr_color() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    std::io::stderr().is_terminal() && !unwanted
}
