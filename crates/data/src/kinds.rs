//! What a file holds, told from the format of the job, its extension and its neighbours.
//!
//! In: a path and a format. Out: a [`Kind`]. A file that was named must have one; a file found in a folder may not
//! belong.

use std::io::Read;
use std::path::Path;

use rekindle_types::spec::DataFormat;

use crate::error::{DataError, Result, io};
use crate::sidecar::{self, Sidecar};
use crate::sources::Kind;
use crate::text;
use crate::token_file::Width;

/// The kind of a file that was named, where a doubt is an error.
pub(crate) fn of_named(path: &Path, format: DataFormat) -> Result<Kind> {
    match format {
        DataFormat::Text => Ok(Kind::Text),
        DataFormat::Jsonl => Ok(Kind::Jsonl),
        DataFormat::Parquet => Ok(Kind::Parquet),
        DataFormat::TokensU16 => Ok(Kind::Tokens(Width::U16)),
        DataFormat::TokensU32 => Ok(Kind::Tokens(Width::U32)),
        DataFormat::Auto => match by_extension(path)? {
            Some(kind) => Ok(kind),
            None if extension(path) == "bin" => {
                let why = "a .bin file without a .bin.json beside it";
                Err(DataError::UnknownFormat {
                    path: path.to_owned(),
                    why,
                })
            }
            None => Ok(Kind::Text),
        },
    }
}

/// The kind of a file that was found in a folder, none for one that doesn't belong to the format.
pub(crate) fn of_found(path: &Path, format: DataFormat) -> Result<Option<Kind>> {
    let tokens = |width| {
        Ok((extension(path) == "bin" || named_width(path) == Some(width)).then_some(Kind::Tokens(width)))
    };
    match format {
        DataFormat::Jsonl => Ok((by_extension(path)? == Some(Kind::Jsonl)).then_some(Kind::Jsonl)),
        DataFormat::Parquet => Ok((extension(path) == "parquet").then_some(Kind::Parquet)),
        DataFormat::TokensU16 => tokens(Width::U16),
        DataFormat::TokensU32 => tokens(Width::U32),
        DataFormat::Text => text_kind(path),
        DataFormat::Auto => match by_extension(path)? {
            Some(kind) => Ok(Some(kind)),
            None if sidecar::is_sidecar(path) => Ok(None),
            None => text_kind(path),
        },
    }
}

fn by_extension(path: &Path) -> Result<Option<Kind>> {
    Ok(match extension(path).as_str() {
        "jsonl" | "ndjson" => Some(Kind::Jsonl),
        "parquet" => Some(Kind::Parquet),
        "bin" => Sidecar::beside(path)?.map(|sidecar| Kind::Tokens(sidecar.width)),
        _ => named_width(path).map(Kind::Tokens),
    })
}

fn named_width(path: &Path) -> Option<Width> {
    match extension(path).as_str() {
        "u16" => Some(Width::U16),
        "u32" => Some(Width::U32),
        _ => None,
    }
}

fn extension(path: &Path) -> String {
    path.extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default()
}

fn text_kind(path: &Path) -> Result<Option<Kind>> {
    Ok(is_utf8(path)?.then_some(Kind::Text))
}

/// Whether a whole file is valid UTF-8. Reads up to the first byte that isn't.
fn is_utf8(path: &Path) -> Result<bool> {
    let mut file = std::fs::File::open(path).map_err(io(path))?;
    let mut buffer = vec![0; 1 << 16];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..]).map_err(io(path))?;
        let filled = kept + read;
        let Some(valid) = text::valid_prefix(&buffer[..filled]) else {
            return Ok(false);
        };
        if read == 0 {
            return Ok(valid == filled);
        }
        buffer.copy_within(valid..filled, 0);
        kept = filled - valid;
    }
}
