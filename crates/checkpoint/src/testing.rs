//! State, runs and checkpoints for tests: of this crate, and of whoever reads or commits checkpoints.
//!
//! In: a model's shape, a layout, a seed. Out: values of every bit pattern that is a number, and checkpoints of them
//! as ranks would write them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rekindle_types::{
    CheckpointPart, Epoch, JobFile, JobId, JobSpec, LayerId, ModelConfig, Plan, RankId, StateDigest,
    StateKind, WorkerId,
};

use crate::commit::commit;
use crate::dtype;
use crate::format::{Assembly, FormatError, Manifest, Span, owned_spans, part_path, writer_name};
use crate::plain::{Target, write_file};
use crate::state_error::{Result, StateError};
use crate::store::Store;

/// The time that everything made here was made at.
pub const NOW: u64 = 1_767_225_600_000;

/// A model's whole state.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The model.
    pub config: ModelConfig,
    values: BTreeMap<(LayerId, StateKind), Vec<f32>>,
}

impl State {
    /// Values that are a function of the seed.
    #[must_use]
    pub fn random(config: &ModelConfig, seed: u64) -> Self {
        let mut number = seed;
        let mut next = || loop {
            number = number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let value = f32::from_bits((number >> 32) as u32);
            if !value.is_nan() {
                return value;
            }
        };
        let mut values = BTreeMap::new();
        for layer in config.layers() {
            let numel = config.layout(layer).numel();
            for kind in StateKind::ALL {
                values.insert((layer, kind), (0..numel).map(|_| next()).collect());
            }
        }
        let config = config.clone();
        Self { config, values }
    }

    /// The values of a layer; none for a layer that the model hasn't.
    #[must_use]
    pub fn get(&self, layer: LayerId, kind: StateKind) -> &[f32] {
        self.values.get(&(layer, kind)).map_or(&[], Vec::as_slice)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, layer: LayerId, kind: StateKind) -> &mut [f32] {
        self.values
            .get_mut(&(layer, kind))
            .map_or(&mut [], Vec::as_mut_slice)
    }

    /// The values of a span.
    #[must_use]
    pub fn of(&self, span: &Span) -> &[f32] {
        let at = |element: u64| usize::try_from(element).unwrap_or(usize::MAX);
        self.get(span.layer, span.kind)
            .get(at(span.start)..at(span.end))
            .unwrap_or(&[])
    }

    /// The digest that a run would report.
    #[must_use]
    pub fn digest(&self) -> StateDigest {
        let digest = |(&(layer, kind), values): (&(LayerId, StateKind), &Vec<f32>)| {
            let mut bytes = Vec::with_capacity(values.len() * 4);
            // A vector takes everything.
            let _ = dtype::write_f32(values, &mut bytes);
            StateDigest::of_blocks(layer, kind, 0, &bytes, 4)
        };
        self.values
            .iter()
            .map(digest)
            .fold(StateDigest::default(), StateDigest::add)
    }
}

/// A model of about 1.3 million parameters: `hidden_size` 128, 6 blocks.
#[must_use]
pub fn small_model() -> ModelConfig {
    ModelConfig {
        hidden_size: 128,
        intermediate_size: 336,
        num_hidden_layers: 6,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        vocab_size: 512,
        max_position_embeddings: 256,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
        initializer_range: 0.02,
    }
}

/// A job that trains the model.
///
/// # Panics
/// Never: its text is a good one.
#[must_use]
#[allow(clippy::expect_used)]
pub fn spec(model: &ModelConfig) -> JobSpec {
    let text = "[job]\nname = \"test\"\nseed = 7\noutput = \"run\"\n[model]\nhidden_size = 8\nintermediate_size = 8\n\
        num_hidden_layers = 1\nnum_attention_heads = 1\n[data]\ntrain = [\"a.txt\"]\nseq_len = 32\n[training]\n\
        steps = 10\nglobal_batch = 8\nmicro_batch = 2\n[optimizer]\nlr = 1e-3\n";
    let mut spec = JobFile::parse(text)
        .and_then(|file| file.into_spec(None))
        .expect("a good job");
    spec.model = model.clone();
    spec
}

/// A plan of `lanes` lanes whose stages have so many layers (embedding, blocks, head).
///
/// # Panics
/// Never: its names are good ones.
#[must_use]
#[allow(clippy::expect_used)]
pub fn plan(lanes: u32, stages: &[u32]) -> Plan {
    let mut start = 0;
    let mut cut = |layers: &u32| {
        start += layers;
        start - layers..start
    };
    let stages: Vec<_> = stages.iter().map(&mut cut).collect();
    let worker = WorkerId::new("w").expect("a good name");
    Plan {
        job: JobId::new("test-1").expect("a good name"),
        epoch: Epoch(3),
        lanes,
        workers: vec![worker; stages.len() * lanes as usize],
        stages,
    }
}

/// Writes what each rank of the plan owns: a file for each kind (weights, moments) and `layers` layers.
///
/// # Errors
/// What the store says.
pub async fn write_parts(
    store: &Arc<dyn Store>,
    state: &State,
    plan: &Plan,
    step: u64,
    layers: usize,
) -> Result<Vec<CheckpointPart>> {
    let writer = writer_name(&plan.job, plan.epoch, NOW);
    let config = &state.config;
    let target = Target {
        store,
        config,
        step,
        writer: &writer,
    };
    let mut parts = Vec::new();
    for rank in plan.ranks() {
        let mut files = Vec::new();
        for (path, spans) in groups(config, plan, rank, &writer, layers) {
            let mut fill = |chunk: &Span, values: &mut [f32]| values.copy_from_slice(state.of(chunk));
            files.push(write_file(&target, &path, &spans, &mut fill).await?);
        }
        let (persist_seconds, stall_seconds) = (0.5, 0.0);
        parts.push(CheckpointPart {
            step,
            rank,
            files,
            persist_seconds,
            stall_seconds,
        });
    }
    Ok(parts)
}

/// Paths and spans of the files of a rank.
fn groups(
    config: &ModelConfig,
    plan: &Plan,
    rank: RankId,
    writer: &str,
    layers: usize,
) -> Vec<(String, Vec<Span>)> {
    let spans = owned_spans(config, plan, rank);
    let mut order: Vec<LayerId> = spans.iter().map(|span| span.layer).collect();
    order.dedup();
    let mut files = Vec::new();
    for group in order.chunks(layers.max(1)) {
        for moments in [false, true] {
            let wanted =
                |span: &&Span| group.contains(&span.layer) && (span.kind != StateKind::Weights) == moments;
            let spans: Vec<Span> = spans.iter().filter(wanted).cloned().collect();
            if let Some(first) = spans.first() {
                let name = format!("{}-{}", group[0], rank.0);
                files.push((part_path(writer, first.kind, &name), spans));
            }
        }
    }
    files
}

/// A committed checkpoint of `state`, as the plan's ranks and their coordinator would have made it.
///
/// # Errors
/// What the store says, or a plan that doesn't fit the model.
pub async fn write_checkpoint(
    store: &Arc<dyn Store>,
    state: &State,
    plan: &Plan,
    step: u64,
) -> Result<Manifest> {
    let parts = write_parts(store, state, plan, step, 2).await?;
    let manifest = assemble(&state.config, plan, step, &parts).map_err(|error| StateError::Format {
        url: store.describe(),
        error,
    })?;
    commit(store, &manifest).await?;
    Ok(manifest)
}

/// The manifest of the parts of a model.
///
/// # Errors
/// Parts that don't make one.
pub fn assemble(
    model: &ModelConfig,
    plan: &Plan,
    step: u64,
    parts: &[CheckpointPart],
) -> std::result::Result<Manifest, FormatError> {
    let spec = spec(model);
    Manifest::assemble(&Assembly {
        spec: &spec,
        plan,
        writer: &writer_name(&plan.job, plan.epoch, NOW),
        step,
        tokens: Manifest::tokens_at(None, &spec, step),
        resumed_from: None,
        rebuilt: &[],
        parts,
        now_unix_ms: NOW + step,
    })
}
