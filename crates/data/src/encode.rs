//! From sources to one stream of ids.
//!
//! In: sources of text and a tokenizer. Out: runs of ids handed to a sink, in order; end-of-text between documents
//! where the tokenizer has it. A few MiB of text are in flight, encoded on several threads.

use crate::documents::{self, Piece};
use crate::error::Result;
use crate::sources::Source;
use crate::tokenizer::Tokenizer;

/// Text encoded at a time, in bytes.
const BATCH: usize = 2 << 20;

/// Takes the ids of one piece.
pub(crate) type Sink<'a> = dyn FnMut(&[u32]) -> Result<()> + 'a;

/// Encodes documents one after another.
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    batch: Vec<Piece>,
    batch_bytes: usize,
    documents: u64,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            batch: Vec::new(),
            batch_bytes: 0,
            documents: 0,
        }
    }

    /// Encodes every document of `source`.
    pub(crate) fn source(&mut self, source: &Source, field: &str, sink: &mut Sink<'_>) -> Result<()> {
        for piece in documents::open(source, field)? {
            let piece = piece?;
            self.batch_bytes += piece.text.len();
            self.batch.push(piece);
            if self.batch_bytes >= BATCH {
                self.flush(sink)?;
            }
        }
        self.flush(sink)
    }

    /// Documents encoded so far.
    pub(crate) fn documents(&self) -> u64 {
        self.documents
    }

    fn flush(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let texts: Vec<&str> = self.batch.iter().map(|piece| piece.text.as_str()).collect();
        let encoded = self.tokenizer.encode_batch(&texts)?;
        for (piece, ids) in self.batch.iter().zip(encoded) {
            if piece.first {
                if let (true, Some(end)) = (self.documents > 0, self.tokenizer.end_of_text()) {
                    sink(&[end])?;
                }
                self.documents += 1;
            }
            sink(&ids)?;
        }
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }
}
