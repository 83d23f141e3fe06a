//! What jobs that swap micro-batches compute, and whom their ranks meet.

use rekindle_model::{ExactSum, StageInput, StageOutput};
use rekindle_plan::average::visiting_order;

use super::super::Engine;
use super::super::batch::Batch;
use super::super::commit::clip_factor;
use super::super::context::Context;
use super::*;

pub const SWAP_STEPS: u64 = 9;
/// Six blocks, with embedding and head eight layers; the twins of the first cut have one and two blocks.
const CUTS: [&[u32]; 3] = [&[2, 4, 6, 8], &[3, 4, 5, 8], &[2, 3, 5, 6, 8]];

pub fn swapping(folder: &Path, extra_model: &str, extra_training: &str) -> JobSpec {
    let mut spec = spec(folder, extra_model, extra_training);
    spec.model.num_hidden_layers = 6;
    spec.training.steps = SWAP_STEPS;
    spec.training.digest_every = 2;
    spec.recovery.sources = vec![
        RecoverySource::Local,
        RecoverySource::NeighbourAverage,
        RecoverySource::Swap,
    ];
    spec
}

fn alone(spec: &JobSpec) -> (Context, Engine) {
    let context = setup::context(
        start(spec, &plan(1, &[8], &["w"]), RankId(0)),
        Duration::from_secs(1),
    )
    .unwrap();
    let computing = Computing {
        device: DeviceId::Cpu,
        threads: 1,
    };
    let mut engine = setup::engine(&context, computing, None).unwrap();
    setup::fill(&mut engine, &context).unwrap();
    (context, engine)
}

/// The blocks in the order in which a swapped micro-batch visits them.
fn swapped_blocks(ends: &[u32]) -> Vec<u32> {
    let stages = cuts(ends);
    let order = visiting_order(stages.len(), true).unwrap();
    let blocks = order.into_iter().flat_map(|stage| stages[stage].clone());
    // Layer 0 is the embedding, layer 7 the head.
    blocks
        .filter(|layer| (1..7).contains(layer))
        .map(|layer| layer - 1)
        .collect()
}

/// Loss, gradient norm and, where the job has one, the digest of each step of one process, whose engine holds all
/// layers and runs those of odd micro-batches in the order that the cut gives: a second engine with the blocks in
/// that order computes them, and has no other part.
fn reference(spec: &JobSpec, ends: &[u32]) -> Vec<(f64, f64, Option<String>)> {
    let (context, mut usual) = alone(spec);
    let (_, mut swapped) = alone(spec);
    let text = setup::text(&context).unwrap();
    let order = swapped_blocks(ends);
    let at = |layer| match layer {
        LayerId::Block(n) => LayerId::Block(order.iter().position(|block| *block == n).unwrap() as u32),
        end => end,
    };
    let mut steps = Vec::new();
    for step in 1..=SWAP_STEPS {
        for layer in usual.layers() {
            let weights = usual
                .weight_bytes(layer, 0..context.numel(layer))
                .unwrap()
                .into_owned();
            swapped
                .set_weight_bytes(at(layer), 0..context.numel(layer), &weights)
                .unwrap();
        }
        let batch = Batch::of_step(&context, text.as_ref(), step).unwrap();
        let mut loss = ExactSum::default();
        for m in context.micro_batches() {
            let engine = if m % 2 == 1 { &mut swapped } else { &mut usual };
            let input = StageInput::Tokens(batch.inputs(m).unwrap());
            let StageOutput::Loss { sum } =
                engine.forward(m, input, Some(batch.targets(m).unwrap())).unwrap()
            else {
                panic!("no loss");
            };
            loss = loss.add(ExactSum::of_loss(sum).unwrap()).unwrap();
            engine.backward(m, None, &mut |_, _| {}).unwrap();
        }
        for layer in usual.layers() {
            let sums = swapped
                .gradient_bytes(at(layer), 0..context.numel(layer))
                .unwrap();
            usual
                .add_gradient_bytes(layer, 0..context.numel(layer), &sums)
                .unwrap();
        }
        swapped.discard_gradients().unwrap();
        let norm = usual.finish_gradients().unwrap().sum_squares.norm();
        let clip = clip_factor(norm, spec.training.max_grad_norm);
        for layer in usual.layers() {
            let rate = context.rate(layer, step);
            usual.update(layer, rate.count, rate.lr, clip).unwrap();
        }
        let digest = context
            .is_due(step, spec.training.digest_every)
            .then(|| usual.digest().unwrap().to_string());
        steps.push((loss.mean_loss(spec.tokens_per_step()), norm, digest));
    }
    steps
}

fn told(reports: &[StepReport]) -> Vec<(f64, f64, Option<String>)> {
    let of = |r: &StepReport| (r.loss, r.grad_norm, r.state_digest.clone());
    reports.iter().map(of).collect()
}

#[test]
fn t6_every_cut_computes_what_one_process_does_in_the_swapped_order_whatever_lanes_and_threads() {
    let text = folder();
    let spec = swapping(text.path(), "", "");
    let mut all = Vec::new();
    for ends in CUTS {
        let wanted = reference(&spec, ends);
        let mut first = None;
        for (lanes, threads) in [(1, 1), (2, 1), (3, 2), (1, 3)] {
            let reports = train(&spec, lanes, ends, threads).unwrap();
            std::fs::remove_dir_all(text.path().join("run")).unwrap();
            let what = format!("{lanes} lanes of stages ending at {ends:?}, {threads} threads");
            assert_eq!(told(&reports), wanted, "{what}");
            let all_of_it = essence(&reports);
            assert_eq!(&all_of_it, first.get_or_insert(essence(&reports)), "{what}");
        }
        all.push(wanted);
    }
    assert_ne!(
        all[0].last(),
        all[1].last(),
        "the cut is a part of what is computed"
    );
    let (from, to) = (all[0][0].0, all[0][SWAP_STEPS as usize - 1].0);
    assert!(to < from, "it learns: {from} to {to}");
}

#[test]
fn tied_ends_and_recomputation_go_with_swapped_micro_batches() {
    let text = folder();
    for (model, training) in [("tie_word_embeddings = true", ""), ("", "recompute = \"block\"")] {
        let spec = swapping(text.path(), model, training);
        let wanted = reference(&swapping(text.path(), model, ""), CUTS[0]);
        for lanes in [1, 2] {
            let reports = train(&spec, lanes, CUTS[0], 1).unwrap();
            std::fs::remove_dir_all(text.path().join("run")).unwrap();
            assert_eq!(told(&reports), wanted, "{lanes} lanes, {model} {training}");
        }
    }
}

#[test]
fn links_go_where_swapped_micro_batches_do_both_ways() {
    let text = folder();
    let spec = swapping(text.path(), "", "");
    for ends in CUTS {
        let plan = plan(2, ends, &vec!["w"; 2 * ends.len()]);
        let all: Vec<_> = plan
            .ranks()
            .map(|rank| setup::context(start(&spec, &plan, rank), Duration::from_secs(1)).unwrap())
            .collect();
        for a in &all {
            a.links()
                .iter()
                .for_each(|b| assert!(all[b.0 as usize].links().contains(&a.id()), "{} and {b}", a.rank));
            for op in a.program() {
                let (rekindle_plan::Op::Forward(m, part) | rekindle_plan::Op::Backward(m, part)) = op;
                let beside = a.beside(m, part).into_iter().flatten();
                beside.for_each(|b| assert!(a.links().contains(&b), "{} and {b}", a.rank));
            }
        }
    }
}
