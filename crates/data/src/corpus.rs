//! The tokens a job trains on, as samples.
//!
//! In: the data section of a job, the model's vocabulary size. Out: samples of `seq_len + 1` ids: sample `k` is
//! `tokens[k*seq_len .. k*seq_len + seq_len + 1]`, so that neighbours share one token and every token but the first
//! is a target once.
//!
//! Text is encoded into memory (2 bytes a token while the tokenizer has at most 65,536 ids), token files are mapped.

use rekindle_types::spec::{DataFormat, DataSpec};

use crate::encode::Encoder;
use crate::error::{DataError, Result};
use crate::segments::{Segments, Store};
use crate::sidecar::Sidecar;
use crate::sources::{self, Kind, Source};
use crate::token_file::{TokenFile, Width};
use crate::tokenizer::Tokenizer;

/// All tokens of a list of inputs, in order.
#[derive(Debug)]
pub struct Corpus {
    segments: Segments,
    documents: Option<u64>,
    vocab_size: u32,
}

impl Corpus {
    /// The training data of a job.
    ///
    /// # Errors
    /// Whatever is wrong with an input, the tokenizer or an id, by name; [`DataError::TooLittle`] when there isn't
    /// one sample.
    pub fn open(data: &DataSpec, vocab_size: u32) -> Result<Self> {
        Self::open_inputs(&data.train, data, vocab_size)
    }

    /// The held-out data of a job, none when the job names none. Evaluation takes its first samples, in order.
    ///
    /// # Errors
    /// As [`Corpus::open`].
    pub fn open_val(data: &DataSpec, vocab_size: u32) -> Result<Option<Self>> {
        if data.val.is_empty() {
            return Ok(None);
        }
        Self::open_inputs(&data.val, data, vocab_size).map(Some)
    }

    fn open_inputs(inputs: &[String], data: &DataSpec, vocab_size: u32) -> Result<Self> {
        let tokenizer = Tokenizer::open(&data.tokenizer)?;
        let corpus = Self::load(inputs, data.format, &data.text_field, &tokenizer, vocab_size)?;
        corpus.check_size(data.seq_len)?;
        Ok(corpus)
    }

    /// Tokens of `inputs` whatever their number. `vocab_size` is the model's.
    ///
    /// # Errors
    /// Whatever is wrong with an input, the tokenizer or an id, by name.
    pub fn load(
        inputs: &[String],
        format: DataFormat,
        text_field: &str,
        tokenizer: &Tokenizer,
        vocab_size: u32,
    ) -> Result<Self> {
        let sources = sources::resolve(inputs, format)?;
        if sources.iter().any(is_text) {
            tokenizer.check_fits(vocab_size)?;
        }
        let mut corpus = Self {
            segments: Segments::default(),
            documents: Some(0),
            vocab_size,
        };
        // Neighbouring sources of text share a segment, as they share the separators between documents.
        for run in sources.chunk_by(|a, b| is_text(a) && is_text(b)) {
            match run[0].kind {
                Kind::Tokens(width) => corpus.map(&run[0], width)?,
                _ => corpus.encode(run, text_field, tokenizer)?,
            }
        }
        tracing::info!(
            files = sources.len(),
            tokens = corpus.tokens(),
            documents = corpus.documents,
            "opened data"
        );
        Ok(corpus)
    }

    fn map(&mut self, source: &Source, width: Width) -> Result<()> {
        let documents = Sidecar::beside(&source.path)?.map(|sidecar| sidecar.documents);
        let file = TokenFile::open(&source.path, width, self.vocab_size)?;
        self.push(Store::Mapped(file), documents);
        Ok(())
    }

    fn encode(&mut self, sources: &[Source], text_field: &str, tokenizer: &Tokenizer) -> Result<()> {
        let width = Width::for_vocab(tokenizer.vocab_size());
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(tokenizer);
        for source in sources {
            encoder.source(source, text_field, &mut |ids| {
                width.write(ids, &mut bytes);
                Ok(())
            })?;
        }
        bytes.shrink_to_fit();
        self.push(Store::Memory(width, bytes), Some(encoder.documents()));
        Ok(())
    }

    fn push(&mut self, store: Store, documents: Option<u64>) {
        self.documents = self.documents.zip(documents).map(|(a, b)| a + b);
        self.segments.push(store);
    }

    fn check_size(&self, seq_len: u32) -> Result<()> {
        if seq_len == 0 {
            return Err(DataError::Zero { name: "data.seq_len" });
        }
        let needed = u64::from(seq_len) + 1;
        if self.tokens() < needed {
            return Err(DataError::TooLittle {
                tokens: self.tokens(),
                needed,
                seq_len,
            });
        }
        Ok(())
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.segments.tokens()
    }

    /// Number of documents; none when a token file doesn't say how many it holds.
    #[must_use]
    pub fn documents(&self) -> Option<u64> {
        self.documents
    }

    /// One more than the highest id the model knows.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Number of samples of `seq_len` targets.
    #[must_use]
    pub fn samples(&self, seq_len: u32) -> u64 {
        self.segments
            .tokens()
            .saturating_sub(1)
            .checked_div(u64::from(seq_len))
            .unwrap_or(0)
    }

    /// The `seq_len + 1` ids of sample `k`: inputs are all but the last, targets all but the first.
    ///
    /// # Errors
    /// [`DataError::NoSuchSample`] when `k` is not below [`Corpus::samples`].
    pub fn sample(&self, k: u64, seq_len: u32) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(seq_len as usize + 1);
        self.sample_into(k, seq_len, &mut ids)?;
        Ok(ids)
    }

    /// Appends the ids of sample `k` to `ids`, see [`Corpus::sample`].
    ///
    /// # Errors
    /// [`DataError::NoSuchSample`] when `k` is not below [`Corpus::samples`].
    pub fn sample_into(&self, k: u64, seq_len: u32, ids: &mut Vec<u32>) -> Result<()> {
        let samples = self.samples(seq_len);
        if k >= samples {
            return Err(DataError::NoSuchSample {
                sample: k,
                samples,
                seq_len,
            });
        }
        self.read(k * u64::from(seq_len), u64::from(seq_len) + 1, ids);
        Ok(())
    }

    /// Appends up to `count` ids from token `start` on.
    pub(crate) fn read(&self, start: u64, count: u64, ids: &mut Vec<u32>) {
        self.segments.read(start, count, ids);
    }
}

fn is_text(source: &Source) -> bool {
    !matches!(source.kind, Kind::Tokens(_))
}
