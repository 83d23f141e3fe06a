//! Documents of any kind of source as one stream of pieces.
//!
//! In: a [`Source`] that isn't a token file. Out: pieces of text, each telling whether a document begins with it.
//! Empty documents vanish.

use crate::error::{DataError, Result};
use crate::jsonl::JsonlFile;
use crate::parquet::ParquetFile;
use crate::sources::{Kind, Source};
use crate::text::{self, TextFile};

/// Part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Whether a document begins here.
    pub first: bool,
    /// Never empty.
    pub text: String,
}

type Pieces = Box<dyn Iterator<Item = Result<Piece>> + Send>;

/// The pieces of one source.
pub(crate) fn open(source: &Source, field: &str) -> Result<Pieces> {
    Ok(match source.kind {
        Kind::Text => Box::new(
            TextFile::open(&source.path)?
                .enumerate()
                .map(|(i, piece)| mark(i, piece)),
        ),
        Kind::Jsonl => split(JsonlFile::open(&source.path, field)?),
        Kind::Parquet => split(ParquetFile::open(&source.path, field)?),
        Kind::Tokens(_) => {
            return Err(DataError::AlreadyTokens {
                path: source.path.clone(),
            });
        }
    })
}

fn mark(index: usize, piece: Result<String>) -> Result<Piece> {
    Ok(Piece {
        first: index == 0,
        text: piece?,
    })
}

fn split(documents: impl Iterator<Item = Result<String>> + Send + 'static) -> Pieces {
    let pieces_of = |document: Result<String>| match document {
        Ok(text) => text::pieces(&text)
            .into_iter()
            .enumerate()
            .map(|(i, piece)| mark(i, Ok(piece)))
            .collect(),
        Err(error) => vec![Err(error)],
    };
    Box::new(documents.flat_map(pieces_of))
}
