//! The tokens of one step, where a rank needs them: inputs on the first stage, targets on the last.

use rekindle_data::{Corpus, DataDigest};

use super::TrainerError;
use super::context::Context;
use super::setup::Text;

/// Inputs and targets of the micro-batches of one lane.
#[derive(Debug, Default)]
pub struct Batch {
    /// `(micro-batch, inputs, targets)`, each `micro_batch * seq_len` tokens.
    rows: Vec<(u32, Vec<u32>, Vec<u32>)>,
    /// Digest of the tokens, on the first stage only: the ends of a lane read the same ones.
    pub digest: DataDigest,
}

impl Batch {
    /// Reads this lane's samples of a step. On an inner stage nothing is read.
    ///
    /// # Errors
    /// [`TrainerError::Data`] when a sample can't be read.
    pub fn of_step(context: &Context, text: Option<&Text>, step: u64) -> Result<Self, TrainerError> {
        let Some(text) = text else {
            return Ok(Self::default());
        };
        let ids = text.sampler.ids(step - 1);
        Self::of_samples(context, &text.corpus, &ids, &context.micro_batches())
    }

    /// Cuts samples `ids` into micro-batches and reads those named.
    ///
    /// # Errors
    /// [`TrainerError::Data`] when a sample can't be read.
    pub fn of_samples(
        context: &Context,
        corpus: &Corpus,
        ids: &[u64],
        micro_batches: &[u32],
    ) -> Result<Self, TrainerError> {
        let rows = context.spec.training.micro_batch as usize;
        let seq_len = context.spec.data.seq_len;
        let mut batch = Self::default();
        for m in micro_batches {
            let first = *m as usize * rows;
            let (mut inputs, mut targets) = (Vec::new(), Vec::new());
            for (position, id) in ids.iter().enumerate().skip(first).take(rows) {
                let tokens = corpus.sample(*id, seq_len)?;
                if context.is_first_stage() {
                    batch.digest.add(position as u64, &tokens);
                }
                inputs.extend_from_slice(&tokens[..seq_len as usize]);
                targets.extend_from_slice(&tokens[1..]);
            }
            batch.rows.push((*m, inputs, targets));
        }
        Ok(batch)
    }

    fn row(&self, m: u32) -> Result<&(u32, Vec<u32>, Vec<u32>), TrainerError> {
        let missing = || TrainerError::Protocol {
            what: format!("micro-batch {m} was not read on this rank"),
        };
        self.rows
            .iter()
            .find(|(number, _, _)| *number == m)
            .ok_or_else(missing)
    }

    /// Input tokens of a micro-batch.
    ///
    /// # Errors
    /// [`TrainerError::Protocol`] when the micro-batch isn't this lane's.
    pub fn inputs(&self, m: u32) -> Result<&[u32], TrainerError> {
        Ok(&self.row(m)?.1)
    }

    /// Target tokens of a micro-batch: the inputs shifted by one.
    ///
    /// # Errors
    /// [`TrainerError::Protocol`] when the micro-batch isn't this lane's.
    pub fn targets(&self, m: u32) -> Result<&[u32], TrainerError> {
        Ok(&self.row(m)?.2)
    }
}
