//! What a corpus looks like, and what a model that knows only word counts would reach on it.
//!
//! In: a corpus. Out: counts, the unigram entropy (the cross-entropy of the best model without context, in nats a
//! token), a beginning.

use serde::Serialize;

use crate::corpus::Corpus;
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Tokens shown by [`inspect`].
const SHOWN: u64 = 200;

/// What [`inspect`] finds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Number of tokens.
    pub tokens: u64,
    /// Number of documents; none when a token file doesn't say.
    pub documents: Option<u64>,
    /// Tokens a sequence.
    pub seq_len: u32,
    /// Number of samples of `seq_len`.
    pub samples: u64,
    /// Ids there could be.
    pub vocab_size: u32,
    /// Ids that occur.
    pub used_ids: u32,
    /// Nats per token.
    pub unigram_entropy: f64,
    /// The first tokens as text.
    pub beginning: String,
}

/// How often each id occurs; `vocab_size` entries.
fn counts(corpus: &Corpus) -> Vec<u64> {
    let mut counts = vec![0u64; corpus.vocab_size() as usize];
    let mut ids = Vec::new();
    for start in (0..corpus.tokens()).step_by(1 << 16) {
        ids.clear();
        corpus.read(start, 1 << 16, &mut ids);
        for &id in &ids {
            // Every id was checked against the vocabulary when the corpus was opened.
            counts[id as usize] += 1;
        }
    }
    counts
}

fn entropy(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let terms = counts.iter().filter(|&&n| n > 0).map(|&n| {
        let p = n as f64 / total as f64;
        -p * p.ln()
    });
    // One id alone sums to -0, which plus 0 is 0.
    terms.sum::<f64>() + 0.0
}

/// The entropy of the corpus's ids without context, in nats a token: the loss of a model that has learned nothing but
/// frequencies.
#[must_use]
pub fn unigram_entropy(corpus: &Corpus) -> f64 {
    entropy(&counts(corpus))
}

/// Counts and a beginning, for people.
///
/// # Errors
/// When the tokenizer can't decode the beginning.
pub fn inspect(corpus: &Corpus, tokenizer: &Tokenizer, seq_len: u32) -> Result<Inspection> {
    let counts = counts(corpus);
    let mut ids = Vec::new();
    corpus.read(0, SHOWN, &mut ids);
    Ok(Inspection {
        tokens: corpus.tokens(),
        documents: corpus.documents(),
        seq_len,
        samples: corpus.samples(seq_len),
        vocab_size: corpus.vocab_size(),
        used_ids: counts.iter().map(|&n| u32::from(n > 0)).sum(),
        unigram_entropy: entropy(&counts),
        beginning: tokenizer.decode(&ids)?,
    })
}
