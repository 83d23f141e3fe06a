//! Who wrote what is loaded, and who loads it.

use rekindle_checkpoint::format::{Span, needed_spans};
use rekindle_checkpoint::testing::{State, assemble, plan, small_model, write_parts};
use rekindle_checkpoint::{Blocking, Checkpoint, commit};
use rekindle_types::{ModelConfig, RankId};

use super::Error;

pub const STEP: u64 = 1;

/// Lanes, and layers of each stage.
type Layout = (u32, &'static [u32]);

pub struct Shape {
    pub name: &'static str,
    /// Whether all of it is read by one rank, so that verifying all of it is the same work.
    pub whole: bool,
    pub written: Layout,
    read: Layout,
}

pub const SHAPES: [Shape; 4] = [
    Shape {
        name: "1 rank, written by 1",
        whole: true,
        written: (1, &[8]),
        read: (1, &[8]),
    },
    Shape {
        name: "4 stages, written by 1",
        whole: false,
        written: (1, &[8]),
        read: (1, &[2, 2, 2, 2]),
    },
    Shape {
        name: "2 stages x 2 lanes, written by 1",
        whole: false,
        written: (1, &[8]),
        read: (2, &[4, 4]),
    },
    Shape {
        name: "2 stages x 2 lanes, written by 2 stages x 3 lanes",
        whole: false,
        written: (3, &[3, 5]),
        read: (2, &[4, 4]),
    },
];

fn model() -> ModelConfig {
    ModelConfig {
        hidden_size: 1024,
        intermediate_size: 2816,
        num_hidden_layers: 6,
        num_attention_heads: 16,
        num_key_value_heads: 8,
        head_dim: 64,
        vocab_size: 10_000,
        ..small_model()
    }
}

/// A rank that loads its state.
pub struct Reader {
    pub spans: Vec<Span>,
    /// As many values, in that order.
    pub memory: Vec<f32>,
}

impl Reader {
    /// Each span with its memory.
    pub fn targets(&mut self) -> Vec<(Span, &mut [f32])> {
        let mut rest = self.memory.as_mut_slice();
        let target = |span: &Span| {
            let (buffer, after) = std::mem::take(&mut rest).split_at_mut(span.len() as usize);
            rest = after;
            (span.clone(), buffer)
        };
        self.spans.iter().map(target).collect()
    }
}

impl Shape {
    pub fn write(&self, disk: &Blocking) -> Result<Checkpoint, Error> {
        let state = State::random(&model(), 1);
        let run = plan(self.written.0, self.written.1);
        let parts = disk.run(write_parts(disk.store(), &state, &run, STEP, 1))?;
        let manifest = assemble(&state.config, &run, STEP, &parts)?;
        disk.run(commit(disk.store(), &manifest))?;
        Ok(disk.checkpoint(STEP)?)
    }

    pub fn readers(&self) -> Vec<Reader> {
        let run = plan(self.read.0, self.read.1);
        let ranks = (0..run.workers.len() as u32).map(|rank| {
            let spans = needed_spans(&model(), &run, RankId(rank));
            let values = spans.iter().map(Span::len).sum::<u64>() as usize;
            // Written once, so that no case is the first to touch it.
            let memory = vec![1.0; values];
            Reader { spans, memory }
        });
        ranks.collect()
    }
}
