//! The exactness contract on whole trainers: threads instead of processes, the in-memory transport instead of TCP.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_transport::{MemoryMesh, Options};
use rekindle_types::{Epoch, JobFile, JobId, JobSpec, Plan, RankId, StartTrainer, StepReport, WorkerId};

use super::context::SharedTransport;
use super::step::Trainer;
use super::{TrainerError, export, setup};

const STEPS: u64 = 50;

fn spec(folder: &std::path::Path, extra_model: &str, extra_training: &str) -> JobSpec {
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

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(folder.path().join("text.txt")).unwrap();
    for n in 0..400 {
        writeln!(file, "{n} times {n} is {}, and so it goes on.", n * n).unwrap();
    }
    folder
}

/// Trains on all ranks at once; the reports of rank 0, or the first error.
fn train(
    spec: &JobSpec,
    lanes: u32,
    cuts: &[Range<u32>],
    threads: u32,
) -> Result<Vec<StepReport>, TrainerError> {
    let stages = u32::try_from(cuts.len()).unwrap();
    let world = lanes * stages;
    let plan = Plan {
        job: JobId::new("exact-1").unwrap(),
        epoch: Epoch(1),
        lanes,
        stages: cuts.to_vec(),
        workers: vec![WorkerId::new("w").unwrap(); world as usize],
    };
    let transports = MemoryMesh::connect(&plan.job, plan.epoch, world, &Options::default())?;
    let ranks: Vec<_> = (0..world)
        .zip(transports)
        .map(|(rank, transport)| {
            let start = StartTrainer {
                rank: RankId(rank),
                spec: spec.clone(),
                plan: plan.clone(),
            };
            std::thread::spawn(move || one(start, Arc::new(transport), threads))
        })
        .collect();
    let mut results: Vec<_> = ranks.into_iter().map(|t| t.join().unwrap()).collect();
    let reports = results.remove(0)?;
    results.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(reports)
}

fn one(
    start: StartTrainer,
    transport: SharedTransport,
    threads: u32,
) -> Result<Vec<StepReport>, TrainerError> {
    let context = setup::context(start, Duration::from_secs(60))?;
    let engine = setup::engine(&context, threads)?;
    let text = setup::text(&context)?;
    let mut trainer = Trainer {
        context,
        transport,
        engine,
        text,
        last_commit: Instant::now(),
    };
    let mut reports = Vec::new();
    for step in 1..=trainer.context.spec.training.steps {
        reports.extend(trainer.step(step)?);
    }
    export::export(&trainer)?;
    Ok(reports)
}

/// What must not depend on the shape of the cluster, to the bit.
fn essence(reports: &[StepReport]) -> Vec<(u64, u64, u64, String, Option<String>, Option<u64>)> {
    let bits = |r: &StepReport| {
        let val = r.val_loss.map(f64::to_bits);
        (
            r.step,
            r.loss.to_bits(),
            r.grad_norm.to_bits(),
            r.data_digest.clone(),
            r.state_digest.clone(),
            val,
        )
    };
    reports.iter().map(bits).collect()
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
    let run = |lanes, cuts: &[Range<u32>], threads| {
        let reports = train(&spec, lanes, cuts, threads).unwrap();
        let weights = exported(text.path());
        std::fs::remove_dir_all(text.path().join("run")).unwrap();
        (essence(&reports), weights)
    };
    let (one, weights) = run(1, &[0..5], 1);
    assert_eq!(one.len() as u64, STEPS);
    assert!(
        one.last().unwrap().4.is_some(),
        "the last step has a state digest"
    );
    assert_eq!(
        one.iter().filter(|r| r.5.is_some()).count(),
        3,
        "evaluated at 20, 40 and the end"
    );
    let first = f64::from_bits(one[0].1);
    let last = f64::from_bits(one[STEPS as usize - 1].1);
    assert!(last < 0.7 * first, "it learns: {first} to {last}");
    for (lanes, cuts, threads) in [
        (1, vec![0..5], 3),
        (1, vec![0..2, 2..3, 3..4, 4..5], 1),
        (2, vec![0..3, 3..5], 1),
        (1, vec![0..1, 1..4, 4..5], 2),
        (3, vec![0..4, 4..5], 1),
        (4, vec![0..5], 1),
    ] {
        let (other, others) = run(lanes, &cuts, threads);
        assert_eq!(other, one, "{lanes} lanes of {cuts:?}, {threads} threads");
        assert_eq!(others, weights, "exported weights of {lanes} lanes of {cuts:?}");
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

/// The comparison above can fail: sums of floats depend on how many lanes there are.
#[test]
fn sums_of_floats_depend_on_the_lanes() {
    let text = folder();
    let spec = spec(text.path(), "", "numerics = \"fast\"");
    let one = train(&spec, 1, &[0..5], 1).unwrap();
    let two = train(&spec, 2, &[0..5], 1).unwrap();
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
    let error = train(&spec, 2, &[0..3, 3..5], 1).unwrap_err();
    assert!(matches!(error, TrainerError::NonFinite { .. }), "{error}");
}
