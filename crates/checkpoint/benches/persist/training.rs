//! A training loop of one process, whose state can be saved.

use std::sync::Arc;

use rekindle_checkpoint::{Held, HeldPart, Span, Writer};
use rekindle_compute::{Cpu, Frozen};
use rekindle_model::{AdamW, FrozenPart, Philox, Stage, StageInput, StageSpec};
use rekindle_types::checkpoint::chunk_elements;
use rekindle_types::{ModelConfig, Numerics, Recompute, StateDigest};

use super::Error;
use super::options::Options;
use super::state::{capture, model};

struct HeldState<F>(F);

impl<F: Frozen> Held for HeldState<F> {
    fn bytes(&self) -> Result<&[u8], String> {
        self.0.bytes().map_err(|e| e.to_string())
    }
}

/// A training loop of `../shared/peers/torch_checkpoint.py`'s shape.
pub struct Loop {
    pub stage: Stage<Cpu<f32>>,
    pub model: Arc<ModelConfig>,
    tokens: Vec<u32>,
    step: u64,
    norm: f64,
}

pub const SEQUENCES: u32 = 8;
pub const SEQ_LEN: u32 = 128;

impl Loop {
    pub fn new(options: &Options) -> Result<Self, Error> {
        let model = model(512, options.get("layers", 8) as u32);
        let spec = StageSpec {
            layers: 0..model.num_hidden_layers + 2,
            micro_batch: SEQUENCES,
            seq_len: SEQ_LEN,
            numerics: Numerics::Exact,
            recompute: Recompute::None,
            tokens_per_step: u64::from(SEQUENCES * SEQ_LEN),
            lane: 0,
            lanes: 1,
            optimizer: AdamW {
                betas: [0.9, 0.95],
                eps: 1e-8,
                weight_decay: 0.01,
            },
            model: model.clone(),
        };
        let mut stage = Stage::new(Arc::new(Cpu::new(2)?), spec)?;
        stage.init_weights(0)?;
        stage.reserve_for_checkpoints(options.get("pool", 256) << 20)?;
        let philox = Philox::new(1);
        let tokens = (0..SEQUENCES * SEQ_LEN + 1).map(|i| philox.words([i, 0, 0, 0])[0] % 256);
        Ok(Self {
            stage,
            model: Arc::new(model),
            tokens: tokens.collect(),
            step: 0,
            norm: 0.0,
        })
    }

    pub fn train(&mut self) -> Result<(), Error> {
        self.gradients()?;
        self.update()
    }

    /// A step without its update.
    pub fn gradients(&mut self) -> Result<(), Error> {
        let (inputs, targets) = (&self.tokens[..self.tokens.len() - 1], &self.tokens[1..]);
        self.stage.forward(0, StageInput::Tokens(inputs), Some(targets))?;
        self.stage.backward(0, None, &mut |_, _| {})?;
        self.norm = self.stage.finish_gradients()?.sum_squares.norm();
        Ok(())
    }

    /// The update by the last gradients.
    pub fn update(&mut self) -> Result<(), Error> {
        self.step += 1;
        let clip = (1.0 / (self.norm + 1e-6)).min(1.0);
        for layer in self.stage.layers() {
            self.stage.update(layer, self.step, 3e-4, clip)?;
        }
        Ok(())
    }

    /// Begins to save the state; with `unchecked`, digests of zero take the place of those that the writer would have
    /// to make.
    pub fn save(&self, writer: &Writer, unchecked: bool) -> Result<(), Error> {
        let zeroes = |elements: usize| {
            let chunks = (elements as u64).div_ceil(chunk_elements(elements as u64));
            (0..chunks).map(|_| StateDigest::default()).collect()
        };
        let part = |part: FrozenPart<Cpu<f32>>| HeldPart {
            span: Span::new(
                part.layer,
                part.kind,
                part.range.start as u64..part.range.end as u64,
            ),
            held: Arc::new(HeldState(part.frozen)),
            digests: part
                .digests
                .or_else(|| unchecked.then(|| zeroes(part.range.len()))),
        };
        let parts = self.stage.freeze_state()?.into_iter().map(part).collect();
        writer.begin(capture(&self.model, parts, self.step))?;
        Ok(())
    }
}
