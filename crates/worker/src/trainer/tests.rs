//! The exactness contract on whole trainers: threads instead of processes, the in-memory transport instead of TCP.

mod choice;
mod ends;
mod lines;
mod memory;
mod shadows;
mod swap;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_transport::{MemoryMesh, Options};
use rekindle_types::spec::RecoverySource;
use rekindle_types::{
    DeviceId, Epoch, FailureClass, JobFile, JobId, JobSpec, LayerId, Plan, RankId, StartTrainer, StateKind,
    StepReport, WorkerId,
};

use super::context::{Context, SharedTransport};
use super::device::Computing;
use super::left::Memory;
use super::local::Local;
use super::parity::{self, Parity};
use super::reports::Reports;
use super::shadow::{Shadows, pieces};
use super::step::Trainer;
use super::{TrainerError, export, setup};

pub const STEPS: u64 = 50;

pub fn spec(folder: &std::path::Path, extra_model: &str, extra_training: &str) -> JobSpec {
    let text = format!(
        r#"
        [job]
        name = "exact"
        seed = 3
        output = "{out}"
        [model]
        hidden_size = 24
        intermediate_size = 40
        num_hidden_layers = 3
        num_attention_heads = 4
        num_key_value_heads = 2
        head_dim = 6
        {extra_model}
        [data]
        train = ["{data}"]
        val = ["{data}"]
        seq_len = 16
        [training]
        steps = {STEPS}
        global_batch = 8
        micro_batch = 2
        digest_every = 7
        {extra_training}
        [evaluation]
        every = 20
        sequences = 5
        [optimizer]
        lr = 0.01
        [lr_schedule]
        kind = "cosine"
        warmup_steps = 5
        "#,
        out = folder.join("run").display(),
        data = folder.join("text.txt").display(),
    );
    JobFile::parse(&text).unwrap().into_spec(None).unwrap()
}

pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(folder.path().join("text.txt")).unwrap();
    for n in 0..400 {
        writeln!(file, "{n} times {n} is {}, and so it goes on.", n * n).unwrap();
    }
    folder
}

/// Stages that end at these layers.
fn cuts(ends: &[u32]) -> Vec<Range<u32>> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(ends).map(|(start, end)| start..*end).collect()
}

/// Trains on all ranks at once; the reports of rank 0, or the first error.
pub fn train(
    spec: &JobSpec,
    lanes: u32,
    ends: &[u32],
    threads: u32,
) -> Result<Vec<StepReport>, TrainerError> {
    let world = lanes as usize * ends.len();
    let plan = plan(lanes, ends, &vec!["w"; world]);
    let mut ranks = train_on(spec, &plan, threads, None, &Options::default())?;
    Ok(ranks.remove(0).0)
}

pub fn plan(lanes: u32, ends: &[u32], workers: &[&str]) -> Plan {
    Plan {
        job: JobId::new("exact-1").unwrap(),
        epoch: Epoch(1),
        lanes,
        stages: cuts(ends),
        workers: workers.iter().map(|name| WorkerId::new(*name).unwrap()).collect(),
    }
}

pub fn start(spec: &JobSpec, plan: &Plan, rank: RankId) -> StartTrainer {
    StartTrainer {
        rank,
        spec: spec.clone(),
        plan: plan.clone(),
        writer: "exact".to_owned(),
        start: None,
        mtbf_seconds: 3600.0,
        heard: None,
    }
}

/// What a rank owns at the end.
type Owned = BTreeMap<(LayerId, StateKind), Vec<u8>>;

/// The reports and the state of every rank, whose workers have folders in `memory`.
fn train_on(
    spec: &JobSpec,
    plan: &Plan,
    threads: u32,
    memory: Option<&Path>,
    options: &Options,
) -> Result<Vec<(Vec<StepReport>, Owned)>, TrainerError> {
    let transports = MemoryMesh::connect(&plan.job, plan.epoch, plan.world(), options)?;
    let ranks: Vec<_> = plan
        .ranks()
        .zip(transports)
        .map(|(rank, transport)| {
            let start = start(spec, plan, rank);
            let folder = memory.map(|parent| parent.join(plan.worker_of(rank).unwrap().as_str()));
            std::thread::spawn(move || one(start, Arc::new(transport), threads, folder.as_deref()))
        })
        .collect();
    ranks.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn one(
    start: StartTrainer,
    transport: SharedTransport,
    threads: u32,
    folder: Option<&Path>,
) -> Result<(Vec<StepReport>, Owned), TrainerError> {
    let (reports, trainer) = trained(start, transport, threads, folder)?;
    let owned = owned(&trainer);
    Ok((reports, owned))
}

/// A trainer after its last step.
fn trained(
    start: StartTrainer,
    transport: SharedTransport,
    threads: u32,
    folder: Option<&Path>,
) -> Result<(Vec<StepReport>, Trainer), TrainerError> {
    let context = setup::context(start, Duration::from_secs(60))?;
    let mut trainer = made(context, transport, threads, folder)?;
    trainer.begin(&Memory::default(), false)?;
    let mut reports = Vec::new();
    for step in 1..=trainer.context.spec.training.steps {
        reports.extend(trainer.step(step, false)?);
    }
    trainer.finish()?;
    export::export(&trainer)?;
    Ok((reports, trainer))
}

fn owned(trainer: &Trainer) -> Owned {
    let (context, engine) = (&trainer.context, &trainer.engine);
    let bytes = |(layer, kind)| {
        let bytes = engine.state_bytes(layer, kind, context.owned(layer)).unwrap();
        ((layer, kind), bytes.into_owned())
    };
    pieces(context, context.id()).into_iter().map(bytes).collect()
}

/// A trainer with the job's first weights.
fn made(
    context: Context,
    transport: SharedTransport,
    threads: u32,
    folder: Option<&Path>,
) -> Result<Trainer, TrainerError> {
    let computing = Computing {
        device: DeviceId::Cpu,
        threads,
    };
    let shadows = Shadows::new(folder, &context)?;
    let mut engine = setup::engine(&context, computing, None)?;
    setup::fill(&mut engine, &context)?;
    let text = setup::text(&context)?;
    let sets = parity::reserve(folder, &context)?;
    let parity = Parity::start(sets, folder, &context, &transport)?;
    let reports = Reports::start(folder, &context);
    Ok(Trainer {
        context,
        transport,
        engine,
        text,
        saver: None,
        told: Box::new(|_| Ok(())),
        local: None,
        reports,
        shadows,
        parity,
        last_commit: Instant::now(),
    })
}

/// What must not depend on the shape of the cluster, to the bit.
#[derive(Debug, PartialEq)]
pub struct Essence {
    loss: f64,
    grad_norm: f64,
    val_loss: Option<f64>,
    data_digest: String,
    state_digest: Option<String>,
}

pub fn essence(reports: &[StepReport]) -> Vec<Essence> {
    let of = |r: &StepReport| Essence {
        loss: r.loss,
        grad_norm: r.grad_norm,
        val_loss: r.val_loss,
        data_digest: r.data_digest.clone(),
        state_digest: r.state_digest.clone(),
    };
    reports.iter().map(of).collect()
}

fn exported(folder: &std::path::Path) -> BTreeMap<u32, Vec<u32>> {
    let model = rekindle_checkpoint::HfModel::open(&folder.join("run/hf")).unwrap();
    let layers = model.config().layers().collect::<Vec<_>>();
    let bits = |layer| {
        model
            .read_layer(layer)
            .unwrap()
            .iter()
            .map(|w| w.to_bits())
            .collect()
    };
    layers
        .into_iter()
        .enumerate()
        .map(|(n, layer)| (n as u32, bits(layer)))
        .collect()
}

fn shapes_agree(extra_model: &str) {
    let text = folder();
    let spec = spec(text.path(), extra_model, "");
    let run = |lanes, ends: &[u32], threads| {
        let reports = train(&spec, lanes, ends, threads).unwrap();
        let weights = exported(text.path());
        std::fs::remove_dir_all(text.path().join("run")).unwrap();
        (essence(&reports), weights)
    };
    let (one, weights) = run(1, &[5], 1);
    assert_eq!(one.len() as u64, STEPS);
    assert!(
        one.last().unwrap().state_digest.is_some(),
        "the last step has a state digest"
    );
    assert_eq!(
        one.iter().filter(|r| r.val_loss.is_some()).count(),
        3,
        "evaluated at 20, 40 and the end"
    );
    let (first, last) = (one[0].loss, one[STEPS as usize - 1].loss);
    assert!(last < 0.7 * first, "it learns: {first} to {last}");
    let shapes: [(u32, &[u32], u32); 5] = [
        (1, &[5], 3),
        (1, &[2, 3, 4, 5], 1),
        (2, &[3, 5], 1),
        (1, &[1, 4, 5], 2),
        (3, &[4, 5], 1),
    ];
    for (lanes, ends, threads) in shapes {
        let (other, others) = run(lanes, ends, threads);
        assert_eq!(
            other, one,
            "{lanes} lanes of stages ending at {ends:?}, {threads} threads"
        );
        assert_eq!(
            others, weights,
            "exported weights of {lanes} lanes of stages ending at {ends:?}"
        );
    }
}

#[test]
fn every_shape_gives_the_bits_of_a_single_worker() {
    shapes_agree("");
}

#[test]
fn every_shape_gives_the_bits_of_a_single_worker_with_tied_embeddings() {
    shapes_agree("tie_word_embeddings = true");
}

#[test]
fn recomputation_gives_the_bits_of_keeping_everything() {
    let text = folder();
    let kept = spec(text.path(), "", "");
    let again = spec(text.path(), "", "recompute = \"block\"");
    let one = essence(&train(&kept, 1, &[5], 1).unwrap());
    std::fs::remove_dir_all(text.path().join("run")).unwrap();
    assert_eq!(essence(&train(&again, 2, &[2, 5], 1).unwrap()), one);
}

/// The comparison above can fail: sums of floats depend on how many lanes there are.
#[test]
fn sums_of_floats_depend_on_the_lanes() {
    let text = folder();
    let spec = spec(text.path(), "", "numerics = \"fast\"");
    let one = train(&spec, 1, &[5], 1).unwrap();
    let two = train(&spec, 2, &[5], 1).unwrap();
    assert_ne!(essence(&one).last(), essence(&two).last());
    let (a, b) = (one.last().unwrap().loss, two.last().unwrap().loss);
    assert!(
        (a - b).abs() < 0.05 * a,
        "only the last bits should differ at first: {a} against {b}"
    );
}

#[test]
fn a_gradient_that_is_no_number_ends_every_rank_with_its_name() {
    let text = folder();
    let mut spec = spec(text.path(), "", "");
    spec.optimizer.lr = 1e30;
    spec.evaluation.every = 0;
    let error = train(&spec, 2, &[3, 5], 1).unwrap_err();
    assert!(matches!(error, TrainerError::NonFinite { .. }), "{error}");
}

#[test]
fn a_processor_refuses_halved_activations_and_says_what_to_do() {
    let text = folder();
    let spec = spec(text.path(), "", "dtype = \"bf16\"");
    let error = train(&spec, 1, &[2, 5], 1).unwrap_err();
    assert_eq!(error.class(), FailureClass::ConfigInvalid);
    let message = error.to_string();
    for part in [
        "bf16",
        "worker w",
        "computes on the cpu",
        "--device cuda:N",
        "\"f32\"",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

/// A trainer on a CUDA device leaves nothing behind, and doesn't take the room for it.
#[test]
fn state_on_a_cuda_device_is_not_kept_in_the_workers_memory() {
    let (text, memory) = (folder(), tempfile::tempdir().unwrap());
    let spec = spec(text.path(), "", "");
    assert!(spec.recovery.sources.contains(&RecoverySource::Local));
    let start = start(&spec, &plan(1, &[5], &["w"]), RankId(0));
    let context = setup::context(start, Duration::from_secs(1)).unwrap();
    let files = || std::fs::read_dir(memory.path()).unwrap().count();
    assert!(Local::new(Some(memory.path()), &context, DeviceId::Cuda(0)).is_none());
    assert_eq!(files(), 0);
    assert!(Local::new(Some(memory.path()), &context, DeviceId::Cpu).is_some());
    assert_eq!(files(), 1);
}
