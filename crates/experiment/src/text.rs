//! The text of the experiment: what is trained on, and what is held out.
//!
//! Text is taken byte by byte (256 ids). Of every 20 neighbouring samples the last is held out, so that both parts
//! are of one kind even where a folder holds several books.

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

    /// At least `sequences` held-out sequences in whole micro-batches, spread evenly over the text. There may be
    /// fewer, never none.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// 400 samples of 8 bytes, each of which is its own number.
    fn numbered() -> Text {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.txt");
        let text: String = (0..=400).map(|n| format!("{n:08}")).collect();
        std::fs::write(&path, &text[..400 * 8 + 1]).unwrap();
        Text::open(&[path.display().to_string()], 8).unwrap()
    }

    fn numbers(batch: &[MicroBatch]) -> Vec<u32> {
        let all: Vec<u32> = batch.iter().flat_map(|b| b.inputs.iter().copied()).collect();
        let number = |ids: &[u32]| ids.iter().fold(0, |n, id| n * 10 + (id - 48));
        all.chunks(8).map(number).collect()
    }

    fn shape() -> Shape {
        Shape {
            seq_len: 8,
            ..crate::Config::quick().shape
        }
    }

    #[test]
    fn one_sample_of_twenty_is_held_out_and_all_others_are_trained_on() {
        let text = numbered();
        assert_eq!((text.training_samples(), text.held_out_samples()), (380, 20));
        let trained: BTreeSet<u32> = (1..=24)
            .flat_map(|step| numbers(&text.batch(5, step, &shape()).unwrap()))
            .collect();
        let expected: BTreeSet<u32> = (0..400).filter(|n| n % 20 != 19).collect();
        assert_eq!(trained, expected);
        let held_out = numbers(&text.held_out(20, &shape()).unwrap());
        assert_eq!(held_out, (0..20).map(|n| n * 20 + 19).collect::<Vec<_>>());
    }

    #[test]
    fn batches_are_functions_of_seed_and_step_and_targets_follow_inputs() {
        let text = numbered();
        let batch = |seed, step| text.batch(seed, step, &shape()).unwrap();
        assert_eq!(batch(1, 3), batch(1, 3));
        assert_ne!(batch(1, 3), batch(2, 3));
        assert_ne!(batch(1, 3), batch(1, 4));
        let first = &batch(1, 3)[0];
        assert_eq!(first.inputs[1..8], first.targets[..7]);
    }

    #[test]
    fn few_held_out_samples_are_taken_again_and_too_little_text_is_refused() {
        let held_out = numbers(&numbered().held_out(38, &shape()).unwrap());
        assert_eq!(held_out.len(), 40);
        assert!(held_out.iter().all(|n| n % 20 == 19));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("short.txt");
        std::fs::write(&path, "x".repeat(100)).unwrap();
        let refused = Text::open(&[path.display().to_string()], 8);
        assert!(matches!(
            refused,
            Err(ExperimentError::Config { option: "--data", .. })
        ));
    }
}
