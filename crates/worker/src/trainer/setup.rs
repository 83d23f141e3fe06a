//! From a plan to a trainer that is ready to meet its peers: layers with weights, text where the pipeline's ends need
//! it.

use std::collections::BTreeMap;
use std::sync::Arc;

use rekindle_checkpoint::HfModel;
use rekindle_compute::{AnyDevice, StateMemory};
use rekindle_data::{Corpus, Sampler};
use rekindle_model::{AdamW, Stage, StageSpec, StateKind};
use rekindle_plan::{end_guards_of, guards_of};
use rekindle_types::{LayerId, Part, Rank, StartTrainer};

use super::context::Context;
use super::device::Computing;
use super::load::load;
use super::room::Room;
use super::{Engine, TrainerError};

/// Training text and the order in which steps take it.
pub struct Text {
    /// The tokens.
    pub corpus: Corpus,
    /// Which samples a step takes.
    pub sampler: Sampler,
    /// Held-out tokens, if the job has any.
    pub held_out: Option<Corpus>,
}

/// Checks that the plan has this rank, and says where it stands.
///
/// # Errors
/// [`TrainerError::Protocol`] for a rank outside its plan.
pub fn context(start: StartTrainer, patience: std::time::Duration) -> Result<Context, TrainerError> {
    let StartTrainer {
        rank,
        spec,
        plan,
        writer,
        start,
        mtbf_seconds,
        heard,
    } = start;
    if rank.0 >= plan.world() || plan.workers.len() != plan.world() as usize {
        let what = format!(
            "{rank} is not in a plan of {} ranks and {} workers",
            plan.world(),
            plan.workers.len()
        );
        return Err(TrainerError::Protocol { what });
    }
    let rank = plan.rank(rank);
    let mut guards = guards_of(&spec, &plan);
    guards.extend(end_guards_of(&spec, &plan));
    Ok(Context {
        guards,
        refills: BTreeMap::new(),
        rebuilt: Vec::new(),
        spec,
        plan,
        rank,
        start,
        memory_step: None,
        writer,
        mtbf_seconds,
        heard,
        patience,
        progress: Arc::default(),
    })
}

/// The layers of this rank, without any state yet. On a CPU their state is to lie in `memory`, if there is one; on a
/// CUDA device all that the plan says is reserved first.
///
/// # Errors
/// [`TrainerError`] when the device can't be had or the shape can't be built.
pub fn engine(
    context: &Context,
    computing: Computing,
    memory: Option<Arc<dyn StateMemory>>,
) -> Result<Engine, TrainerError> {
    let device = computing.open(context, memory)?;
    if let AnyDevice::Cuda(cuda) = &device {
        Room::of(context, computing).reserve(&**cuda)?;
    }
    Ok(Stage::new(device.into(), stage_of(context, context.rank))?)
}

/// What the stage of a rank is made of.
#[must_use]
pub fn stage_of(context: &Context, rank: Rank) -> StageSpec {
    let spec = &context.spec;
    StageSpec {
        model: spec.model.clone(),
        layers: context.plan.stages[rank.stage as usize].clone(),
        micro_batch: spec.training.micro_batch,
        seq_len: spec.data.seq_len,
        numerics: spec.training.numerics,
        recompute: spec.training.recompute,
        tokens_per_step: spec.tokens_per_step(),
        lane: rank.lane,
        lanes: context.plan.lanes,
        optimizer: AdamW {
            betas: spec.optimizer.betas,
            eps: spec.optimizer.eps,
            weight_decay: spec.optimizer.weight_decay,
        },
    }
}

/// The same of what a rank's guards keep of it.
#[must_use]
pub fn guarded_stage_of(context: &Context, rank: Rank) -> StageSpec {
    let mut stage = stage_of(context, rank);
    if let Some(end) = stage
        .layer_ids()
        .into_iter()
        .find(|layer| !Part::Blocks.has(*layer))
        && context.spec.recovery.swaps()
    {
        let index = context.index_of(end);
        stage.layers = index..index + 1;
    }
    stage
}

/// The state that the plan starts from: a checkpoint's, seeded weights, or those of the folder the job starts from.
///
/// # Errors
/// [`TrainerError`] when the checkpoint or folder can't be read.
pub fn fill(engine: &mut Engine, context: &Context) -> Result<(), TrainerError> {
    match (&context.start, &context.spec.init_from) {
        (Some(start), _) => load(engine, context, start),
        (None, None) => Ok(engine.init_weights(context.spec.job.seed)?),
        (None, Some(folder)) => import(engine, folder),
    }
}

fn import(engine: &mut Engine, folder: &str) -> Result<(), TrainerError> {
    let source = HfModel::open(std::path::Path::new(folder))?;
    let mirror = engine.holds_mirror().then_some(LayerId::Embed);
    for layer in engine.layers().into_iter().chain(mirror) {
        engine.import(layer, StateKind::Weights, 0, &source.read_layer(layer)?)?;
    }
    Ok(())
}

/// Opens the job's text on the first and the last stage; inner stages see activations only.
///
/// # Errors
/// [`TrainerError::Data`] naming the file at fault.
pub fn text(context: &Context) -> Result<Option<Text>, TrainerError> {
    if !context.is_first_stage() && !context.is_last_stage() {
        return Ok(None);
    }
    let (data, vocab) = (&context.spec.data, context.spec.model.vocab_size);
    let corpus = Corpus::open(data, vocab)?;
    let samples = corpus.samples(data.seq_len);
    let sampler = Sampler::new(
        context.spec.job.seed,
        samples,
        context.spec.training.global_batch,
        data.shuffle,
    )?;
    let held_out = if context.spec.evaluation.every > 0 {
        Corpus::open_val(data, vocab)?
    } else {
        None
    };
    Ok(Some(Text {
        corpus,
        sampler,
        held_out,
    }))
}
