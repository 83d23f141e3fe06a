//! Text, JSONL or Parquet into a token file, once, so that every later start maps it.
//!
//! In: inputs, a tokenizer, a width. Out: the token file and its sidecar, both whole or absent. Memory stays at a few
//! MiB whatever the size of the input. The tokens are those that [`crate::Corpus`] makes of the same inputs.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rekindle_types::spec::DataFormat;
use xxhash_rust::xxh3::Xxh3;

use crate::atomic;
use crate::encode::Encoder;
use crate::error::{DataError, Result, io};
use crate::sidecar::{Sidecar, SourceDigest};
use crate::sources::{self, Source};
use crate::token_file::Width;
use crate::tokenizer::{BYTES, Tokenizer};

/// What [`prepare`] wrote.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Prepared {
    /// The token file.
    pub path: PathBuf,
    /// What its sidecar says.
    pub sidecar: Sidecar,
}

/// Writes the tokens of `inputs` to `out` and what they are to `out` + `.json`.
///
/// # Errors
/// [`DataError::TooWide`] when `width` can't hold the tokenizer's ids, [`DataError::AlreadyTokens`] for token files
/// among the inputs, and whatever is wrong with an input. On an error `out` is as it was.
pub fn prepare(
    inputs: &[String],
    format: DataFormat,
    text_field: &str,
    tokenizer: &Tokenizer,
    out: &Path,
    width: Width,
) -> Result<Prepared> {
    let (name, ids) = (tokenizer.name(), tokenizer.vocab_size());
    if width == Width::U16 && Width::for_vocab(ids) == Width::U32 {
        return Err(DataError::TooWide {
            name: name.to_owned(),
            tokens: ids,
        });
    }
    let sources = sources::resolve(inputs, format)?;
    let mut sidecar = Sidecar {
        version: Sidecar::VERSION,
        width,
        tokens: 0,
        documents: 0,
        vocab_size: ids,
        tokenizer: name.to_owned(),
        tokenizer_digest: if name == BYTES {
            None
        } else {
            Some(digest(Path::new(name))?.xxh3_128)
        },
        sources: sources
            .iter()
            .map(|source| digest(&source.path))
            .collect::<Result<_>>()?,
    };
    let sidecar_path = Sidecar::path_of(out);
    // An older sidecar would contradict the new file, should we be interrupted between the two.
    match std::fs::remove_file(&sidecar_path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&sidecar_path)(error)),
        _ => {}
    }
    write_tokens(&sources, text_field, tokenizer, out, &mut sidecar)?;
    let mut json = serde_json::to_string_pretty(&sidecar).map_err(|e| io(&sidecar_path)(e.into()))?;
    json.push('\n');
    atomic::write(&sidecar_path, |file| {
        file.write_all(json.as_bytes()).map_err(io(&sidecar_path))
    })?;
    Ok(Prepared {
        path: out.to_owned(),
        sidecar,
    })
}

fn write_tokens(
    sources: &[Source],
    text_field: &str,
    tokenizer: &Tokenizer,
    out: &Path,
    sidecar: &mut Sidecar,
) -> Result<()> {
    atomic::write(out, |file| {
        let mut encoder = Encoder::new(tokenizer);
        let mut bytes = Vec::new();
        for source in sources {
            encoder.source(source, text_field, &mut |ids| {
                bytes.clear();
                sidecar.width.write(ids, &mut bytes);
                sidecar.tokens += ids.len() as u64;
                file.write_all(&bytes).map_err(io(out))
            })?;
        }
        sidecar.documents = encoder.documents();
        Ok(())
    })
}

fn digest(path: &Path) -> Result<SourceDigest> {
    let mut file = std::fs::File::open(path).map_err(io(path))?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(io(path))?;
        if read == 0 {
            let xxh3_128 = format!("{:032x}", hasher.digest128());
            return Ok(SourceDigest {
                path: path.display().to_string(),
                bytes,
                xxh3_128,
            });
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}
