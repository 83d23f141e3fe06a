//! The text of the experiment: what is trained on, and what is held out.
//!
//! Text is taken byte by byte (256 ids). Of every 20 neighbouring samples the last is held out, so that both parts are of one kind even
//! where a folder holds several books.

use rekindle_data::{Corpus, Sampler, Tokenizer};
use rekindle_types::spec::DataFormat;

use crate::config::Shape;
use crate::error::{ExperimentError, Result};
use crate::pipeline::MicroBatch;

/// One of so many samples is held out.
const HELD_OUT: u64 = 20;
/// Ids of the bytes.
pub(crate) const VOCAB: u32 = 256;

/// Tokens, cut into samples of one sequence.
#[derive(Debug)]
pub struct Text {
    corpus: Corpus,
    seq_len: u32,
}

impl Text {
    /// Reads files, folders or globs.
    ///
    /// # Errors
    /// Whatever is wrong with an input, by name; too little text for a sequence in each part.
    pub fn open(inputs: &[String], seq_len: u32) -> Result<Self> {
        let corpus = Corpus::load(inputs, DataFormat::Auto, "text", &Tokenizer::bytes(), VOCAB)?;
        let text = Self { corpus, seq_len };
        if text.corpus.samples(seq_len) < HELD_OUT {
            let (have, want) = (text.tokens(), HELD_OUT * u64::from(seq_len) + 1);
            let why = format!("it has {have} bytes of text, at least {want} are needed");
            return Err(ExperimentError::config("--data", why));
        }
        Ok(text)
    }

    /// Number of bytes.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.corpus.tokens()
    }

    /// Samples to train on.
    #[must_use]
    pub fn training_samples(&self) -> u64 {
        self.corpus.samples(self.seq_len) - self.held_out_samples()
    }

    /// Samples held out.
    #[must_use]
    pub fn held_out_samples(&self) -> u64 {
        self.corpus.samples(self.seq_len) / HELD_OUT
    }

    /// The micro-batches of step `step` (from 1): a function of (seed, step).
    ///
    /// # Errors
    /// When the sampler or the corpus refuses.
    pub fn batch(&self, seed: u64, step: u64, shape: &Shape) -> Result<Vec<MicroBatch>> {
        let sampler = Sampler::new(seed, self.training_samples(), shape.sequences(), true)?;
        let samples = sampler
            .ids(step - 1)
            .into_iter()
            .map(|id| id + id / (HELD_OUT - 1));
        self.micro_batches(&samples.collect::<Vec<_>>(), shape.micro_batch)
    }

    /// At least `sequences` held-out sequences in whole micro-batches, spread evenly over the text. There may be fewer, never none.
    ///
    /// # Errors
    /// When the corpus refuses.
    pub fn held_out(&self, sequences: u32, shape: &Shape) -> Result<Vec<MicroBatch>> {
        let all = self.held_out_samples();
        let whole = u64::from(sequences.div_ceil(shape.micro_batch)) * u64::from(shape.micro_batch);
        // With too little text some are taken twice rather than a micro-batch left unfilled.
        let samples = (0..whole).map(|i| (i * all / whole) * HELD_OUT + HELD_OUT - 1);
        self.micro_batches(&samples.collect::<Vec<_>>(), shape.micro_batch)
    }

    fn micro_batches(&self, samples: &[u64], each: u32) -> Result<Vec<MicroBatch>> {
        samples
            .chunks(each as usize)
            .map(|part| self.micro_batch(part))
            .collect()
    }

    fn micro_batch(&self, samples: &[u64]) -> Result<MicroBatch> {
        let mut batch = MicroBatch::default();
        for &sample in samples {
            let ids = self.corpus.sample(sample, self.seq_len)?;
            batch.inputs.extend_from_slice(&ids[..ids.len() - 1]);
            batch.targets.extend_from_slice(&ids[1..]);
        }
        Ok(batch)
    }
}
