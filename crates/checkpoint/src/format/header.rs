//! Headers of tensor files: 8 bytes of length, JSON, spaces up to a multiple of [`ALIGN`] (safetensors allows them).
//!
//! In: the spans a file holds, in order. Out: the bytes before its data; or, for bytes that were read, whether they
//! say the same.

use std::collections::HashMap;

use rekindle_types::{FileEntry, ModelConfig};
use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};

use super::{ALIGN, DTYPE, FormatError, Piece, Result, Span, element_bytes, pieces};

/// Bytes of the length at a file's start.
const PREFIX: usize = 8;
/// Longest header that safetensors libraries take.
const LONGEST: usize = 100_000_000;

/// The header of a file that holds `spans` one after another. The same arguments give the same bytes.
///
/// # Errors
/// [`FormatError::Parts`] when it would be too long for safetensors.
pub fn header_for(config: &ModelConfig, step: u64, writer: &str, spans: &[Span]) -> Result<Vec<u8>> {
    let mut about = Map::new();
    for (key, value) in [("format", "pt"), ("step", &step.to_string()), ("writer", writer)] {
        about.insert(key.to_owned(), value.into());
    }
    let (mut entries, mut offset) = (Map::new(), 0);
    let element = element_bytes(DTYPE).unwrap_or(0);
    for Piece {
        name,
        shape,
        elements,
        piece_of,
    } in spans.iter().flat_map(|span| pieces(config, span))
    {
        let end = offset + (elements.end - elements.start) * element;
        if let Some(whole) = piece_of {
            about.insert(name.clone(), json!(whole).to_string().into());
        }
        entries.insert(
            name,
            json!({"dtype": DTYPE, "shape": shape, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    entries.insert("__metadata__".to_owned(), Value::Object(about));
    let text = Value::Object(entries).to_string();
    let bytes = (PREFIX + text.len()).next_multiple_of(ALIGN);
    if bytes - PREFIX > LONGEST {
        let why = format!(
            "a file of {} spans has a header of {bytes} bytes; write several files",
            spans.len()
        );
        return Err(FormatError::Parts(why));
    }
    let mut header = ((bytes - PREFIX) as u64).to_le_bytes().to_vec();
    header.extend_from_slice(text.as_bytes());
    header.resize(bytes, b' ');
    Ok(header)
}

/// Checks that `header` (the first `entry.header_bytes` bytes of a file) describes exactly the entry's sections.
///
/// # Errors
/// [`FormatError::Header`] naming the first tensor that differs.
pub fn check_header(header: &[u8], config: &ModelConfig, entry: &FileEntry) -> Result<()> {
    let fail = |why: String| {
        Err(FormatError::Header {
            path: entry.path.clone(),
            why,
        })
    };
    let metadata = match parse(header) {
        Ok(metadata) => metadata,
        Err(why) => return fail(why),
    };
    let mut found: HashMap<_, _> = metadata.tensors().into_iter().collect();
    let mut at = 0;
    for piece in entry
        .sections
        .iter()
        .flat_map(|section| pieces(config, &Span::of(section)))
    {
        let bytes = (piece.elements.end - piece.elements.start) * element_bytes(&entry.dtype).unwrap_or(0);
        let Some(info) = found.remove(&piece.name) else {
            return fail(format!("lacks tensor {}", piece.name));
        };
        let place = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        if info.dtype.to_string() != entry.dtype || info.shape != piece.shape || place != (at, at + bytes) {
            return fail(format!("says of tensor {} what the manifest doesn't", piece.name));
        }
        at += bytes;
    }
    match found.keys().min() {
        Some(name) => fail(format!("has tensor {name}, which the manifest doesn't have")),
        None => Ok(()),
    }
}

fn parse(header: &[u8]) -> std::result::Result<Metadata, String> {
    let (length, text) = header.split_first_chunk::<PREFIX>().ok_or("is cut short")?;
    if u64::from_le_bytes(*length) != text.len() as u64 {
        return Err("has another length than the manifest says".to_owned());
    }
    serde_json::from_slice(text).map_err(|e| format!("is not one of safetensors: {e}"))
}
