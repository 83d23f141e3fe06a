//! The small JSON beside a token file that says what the file is.
//!
//! In: a token file's path (`train.bin`). Out: what `train.bin.json` says of it, checked against the file's size. A
//! token file needs no sidecar; one that lies is an error.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result, io};
use crate::token_file::Width;

/// What a token file was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    /// Version of this schema; 1.
    pub version: u32,
    /// Bytes of an id.
    pub width: Width,
    /// Ids in the file.
    pub tokens: u64,
    /// Documents they came from.
    pub documents: u64,
    /// One more than the tokenizer's highest id.
    pub vocab_size: u32,
    /// `bytes` or the path of the tokenizer.json.
    pub tokenizer: String,
    /// XXH3-128 of the tokenizer.json, in hexadecimal; none for `bytes`.
    pub tokenizer_digest: Option<String>,
    /// The files that were read, in order.
    pub sources: Vec<SourceDigest>,
}

/// One file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDigest {
    /// Where it was.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// XXH3-128 of its bytes, in hexadecimal.
    pub xxh3_128: String,
}

impl Sidecar {
    /// The schema this version writes.
    pub const VERSION: u32 = 1;

    /// Where the sidecar of `tokens` is.
    #[must_use]
    pub fn path_of(tokens: &Path) -> PathBuf {
        let mut name = tokens.as_os_str().to_owned();
        name.push(".json");
        PathBuf::from(name)
    }

    /// The sidecar of a token file, if there is one.
    ///
    /// # Errors
    /// [`DataError::Sidecar`] when it can't be understood or doesn't fit the file.
    pub fn beside(tokens: &Path) -> Result<Option<Self>> {
        let path = Self::path_of(tokens);
        if !path.is_file() {
            return Ok(None);
        }
        let fail = |why: String| DataError::Sidecar {
            path: path.clone(),
            why,
        };
        let text = std::fs::read(&path).map_err(io(&path))?;
        let sidecar: Self = serde_json::from_slice(&text)
            .map_err(|e| fail(format!("describes no token file: {e}; remove it")))?;
        if sidecar.version != Self::VERSION {
            return Err(fail(format!(
                "schema version {} is not {}",
                sidecar.version,
                Self::VERSION
            )));
        }
        let bytes = std::fs::metadata(tokens).map_err(io(tokens))?.len();
        if sidecar.tokens.checked_mul(sidecar.width.bytes() as u64) != Some(bytes) {
            let expected = sidecar.tokens;
            return Err(fail(format!(
                "promises {expected} tokens, but the file has {bytes} bytes; prepare it again"
            )));
        }
        Ok(Some(sidecar))
    }
}

/// Whether `path` is the sidecar of a file that exists.
pub(crate) fn is_sidecar(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json")
        && path.with_extension("").is_file()
        && path
            .with_extension("")
            .extension()
            .is_some_and(|e| e == "bin" || e == "u16" || e == "u32")
}
