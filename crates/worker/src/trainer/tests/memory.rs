//! The plan's figure for memory against what the device counted, over whole trainers that keep states, save and
//! evaluate.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_compute::{AnyDevice, HandedOut, sizes};
use rekindle_plan::memory::{Sizes, memory};
use rekindle_plan::{Memory, On};
use rekindle_transport::{MemoryMesh, Options};
use rekindle_types::{DeviceId, JobFile, JobSpec, Plan, StartTrainer};

use super::super::context::SharedTransport;
use super::super::device::Computing;
use super::super::left;
use super::super::local::Local;
use super::super::saver::Saver;
use super::super::shadow::Shadows;
use super::super::step::Trainer;
use super::super::{Engine, setup};
use super::{folder, plan, start};

const THREADS: u32 = 2;

/// A job whose every section takes more than what is rounded away.
fn spec(folder: &Path, model: &str, more: &str) -> JobSpec {
    let text = format!(
        r#"
        [job]
        name = "memory"
        output = "{out}"
        [model]
        hidden_size = 48
        intermediate_size = 112
        num_attention_heads = 4
        num_key_value_heads = 2
        {model}
        [data]
        train = ["{data}"]
        val = ["{data}"]
        seq_len = 40
        [optimizer]
        lr = 0.01
        {more}
        "#,
        out = folder.join("run").display(),
        data = folder.join("text.txt").display(),
    );
    JobFile::parse(&text).unwrap().into_spec(None).unwrap()
}

fn trainer(start: StartTrainer, transport: SharedTransport, folder: &Path) -> Trainer {
    let context = setup::context(start, Duration::from_secs(60)).unwrap();
    let computing = Computing {
        device: DeviceId::Cpu,
        threads: THREADS,
    };
    let shadows = Shadows::new(Some(folder), &context).unwrap();
    let local = Local::new(Some(folder), &context, DeviceId::Cpu);
    let mut engine = setup::engine(&context, computing, local.as_ref().map(Local::memory)).unwrap();
    if local.is_some() {
        engine.reserve_whole().unwrap();
    }
    setup::fill(&mut engine, &context).unwrap();
    let saver = Saver::new(&context, &mut engine).unwrap();
    let text = setup::text(&context).unwrap();
    Trainer {
        context,
        transport,
        engine,
        text,
        saver,
        told: Box::new(|_| Ok(())),
        reports: None,
        local,
        shadows,
        parity: None,
        last_commit: Instant::now(),
    }
}

/// Trains three steps, saves after two of them and evaluates; what was handed out, and what the plan says.
fn measured(spec: &JobSpec, plan: &Plan, memory_folder: &Path) -> Vec<(HandedOut, Memory)> {
    let transports = MemoryMesh::connect(&plan.job, plan.epoch, plan.world(), &Options::default()).unwrap();
    let ranks = plan.ranks().zip(transports).map(|(rank, transport)| {
        let start = start(spec, plan, rank);
        let planned = memory(spec, plan, plan.rank(rank), On::Cpu { threads: THREADS });
        let folder = memory_folder.join(rank.to_string().replace(' ', "-"));
        std::fs::create_dir_all(&folder).unwrap();
        std::thread::spawn(move || {
            let mut trainer = trainer(start, Arc::new(transport), &folder);
            trainer.begin(&left::Memory::default(), false).unwrap();
            for step in 1..=trainer.context.spec.training.steps {
                trainer.step(step, step > 1).unwrap();
            }
            trainer.finish().unwrap();
            (handed_out(&trainer.engine), planned)
        })
    });
    let ranks: Vec<_> = ranks.collect();
    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
}

fn handed_out(engine: &Engine) -> HandedOut {
    let device: &AnyDevice = engine.device();
    device.handed_out()
}

fn check(name: &str, (lanes, ends): (u32, &[u32]), model: &str, more: &str) {
    let (text, memory) = (folder(), tempfile::tempdir().unwrap());
    let spec = spec(text.path(), model, more);
    let world = lanes as usize * ends.len();
    let names: Vec<String> = (0..world).map(|n| format!("w{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let plan = plan(lanes, ends, &names);
    for (rank, (handed, planned)) in measured(&spec, &plan, memory.path()).into_iter().enumerate() {
        let (used, said) = (handed.peak as f64, planned.total() as f64);
        eprintln!(
            "{name}, rank {rank}: {said} planned, {used} used, {:.4}",
            said / used
        );
        assert!(
            (0.999..1.05).contains(&(said / used)),
            "{name}, rank {rank}: {said} bytes planned, {used} used; {planned:?}"
        );
    }
}

const TRAINING: &str = "[training]\nsteps = 3\nglobal_batch = 12\nmicro_batch = 2\n";

#[test]
fn the_plan_says_what_a_single_stage_takes() {
    let blocks = "num_hidden_layers = 3";
    check("plain", (1, &[5]), blocks, TRAINING);
    check(
        "fast",
        (1, &[5]),
        blocks,
        &format!("{TRAINING}numerics = \"fast\""),
    );
    check(
        "recomputed, tied, nothing kept",
        (1, &[5]),
        "num_hidden_layers = 3\ntie_word_embeddings = true",
        &format!(
            "{TRAINING}recompute = \"block\"\n[recovery]\nsources = [\"checkpoint\"]\n[checkpoint]\nevery = 0"
        ),
    );
    check(
        "large batches of few weights",
        (1, &[3]),
        "num_hidden_layers = 1",
        "[training]\nsteps = 3\nglobal_batch = 32\nmicro_batch = 16\n[recovery]\nsources = [\"checkpoint\"]\n[evaluation]\nevery = 2",
    );
}

#[test]
fn the_plan_says_what_every_stage_of_a_pipeline_takes() {
    check(
        "tied over three stages",
        (1, &[2, 4, 6]),
        "num_hidden_layers = 4\ntie_word_embeddings = true",
        &format!("{TRAINING}[evaluation]\nevery = 2"),
    );
    check(
        "embedding and head alone",
        (1, &[1, 3, 4]),
        "num_hidden_layers = 2",
        &format!("{TRAINING}recompute = \"block\"\n[evaluation]\nevery = 1"),
    );
    check(
        "swapped micro-batches",
        (1, &[2, 4, 6, 8]),
        "num_hidden_layers = 6",
        &format!(
            "{TRAINING}[parallelism]\npipeline = 4\n[recovery]\nsources = [\"local\", \"neighbour_average\", \"swap\"]"
        ),
    );
    check(
        "a pool for some layers",
        (1, &[3, 6]),
        "num_hidden_layers = 4",
        &format!("{TRAINING}[checkpoint]\nevery = 2\npool = \"700 KiB\""),
    );
}

#[test]
fn the_plan_says_what_every_lane_takes() {
    check(
        "two lanes of two stages",
        (2, &[2, 5]),
        "num_hidden_layers = 3\ntie_word_embeddings = true",
        &format!("{TRAINING}[evaluation]\nevery = 2"),
    );
    check(
        "three lanes that recompute, with guards",
        (3, &[4]),
        "num_hidden_layers = 2",
        &format!("{TRAINING}recompute = \"block\"\n[recovery]\nsources = [\"local\", \"shadow\"]"),
    );
}

/// What the plan reckons with is what the devices go by.
#[test]
fn the_plan_has_the_sizes_of_the_devices() {
    let of = |sizes: sizes::Sizes| Sizes {
        alignment: sizes.alignment as u64,
        logits_at_once: sizes.logits_at_once as u64,
        norm_rows: sizes.norm_rows as u64,
        attention_tile: sizes.attention_tile as u64,
        vector: sizes.vector as u64,
        workspace: sizes.workspace as u64,
        space_step: sizes.space_step as u64,
    };
    assert_eq!(of(sizes::CPU), Sizes::CPU);
    assert_eq!(of(sizes::CUDA), Sizes::CUDA);
}
