//! Figures of memory that were counted by hand, and what they come to with other settings. That they are what a stage
//! takes is tested where stages are (`rekindle-worker`).

#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod support;

use rekindle_plan::advice::{needs, would_help};
use rekindle_plan::memory::shared_space;
use rekindle_plan::{Memory, On, Slot, memory, place};
use rekindle_types::{Dtype, Epoch, JobId, JobSpec, Numerics, Plan, Rank, Recompute, WorkerId};

const ROWS: u64 = 2 * 32;
const CPU: On = On::Cpu { threads: 1 };

fn spec(extra: &str) -> JobSpec {
    support::spec(&format!("[parallelism]\npipeline = 2\ndata = 2\n{extra}"))
}

fn planned(spec: &JobSpec) -> Plan {
    let slot = |n| Slot {
        worker: WorkerId::new(format!("w{n}")).unwrap(),
        threads: 1,
    };
    let slots: Vec<Slot> = (0..4).map(slot).collect();
    place(&JobId::new("t-1").unwrap(), Epoch(1), spec, &slots).unwrap()
}

fn first(spec: &JobSpec, on: On) -> Memory {
    memory(spec, &planned(spec), Rank { lane: 0, stage: 0 }, on)
}

/// Numbers that one token keeps of a block beside its input: residual, query, key, value, attention's output, gate
/// and up.
const NARROW: u64 = 64 + 3 * 64 + 64 + 2 * 128;
/// And those that are never rounded: log-sum-exps of four heads, two norms.
const WIDE: u64 = 4 + 2;

#[test]
fn activations_are_those_of_the_micro_batches_in_flight() {
    let kept = spec("");
    let blocks = u64::from(planned(&kept).stages[0].end) - 1;
    assert!(blocks > 1);
    // Two in flight: inputs of the blocks and the gradient that runs back, what blocks keep, token ids.
    let of = |block: u64| 2 * ROWS * (4 * 64 * (blocks + 1) + blocks * block + 4);
    assert_eq!(first(&kept, CPU).activations, of(4 * (NARROW + WIDE)));
    let mut again = kept.clone();
    again.training.recompute = Recompute::Block;
    let (kept, again) = (first(&kept, CPU), first(&again, CPU));
    assert_eq!(again.activations, of(0));
    assert_eq!(
        again.scratch - kept.scratch,
        4 * ROWS * (NARROW + WIDE),
        "the block at work"
    );
    assert!(again.total() < kept.total());
}

#[test]
fn rounding_halves_activations_and_adds_copies_of_weights() {
    let wide = spec("");
    let mut narrow = wide.clone();
    narrow.training.dtype = Dtype::Bf16;
    let blocks = u64::from(planned(&wide).stages[0].end) - 1;
    let (wide, narrow) = (first(&wide, On::Cuda), first(&narrow, On::Cuda));
    assert_eq!((wide.rounded, narrow.rounded), (0, wide.weights / 2));
    assert_eq!((wide.moments, wide.gradients), (narrow.moments, narrow.gradients));
    // Ids, and rows grouped by token: 4 + 4 + 12 bytes; every buffer here is a multiple of 256 bytes already.
    let never_rounded = 2 * ROWS * (4 * blocks * WIDE + 20);
    let halved = wide.activations - never_rounded;
    assert_eq!(narrow.activations, never_rounded + halved / 2);
}

#[test]
fn sums_and_shards_follow_numerics_and_lanes() {
    let exact = spec("");
    let mut fast = exact.clone();
    fast.training.numerics = Numerics::Fast;
    let (exact, fast) = (first(&exact, CPU), first(&fast, CPU));
    assert_eq!(exact.gradients, 2 * exact.weights);
    assert_eq!(fast.gradients, fast.weights);
    // Two moments of half of everything, give or take a block of 1,024 elements a layer.
    assert!(exact.moments.abs_diff(exact.weights) < 2 * 4 * 1024 * 6);
}

#[test]
fn a_cpu_keeps_the_last_state_and_what_of_the_pool_layers_fill_and_a_gpu_copies_to_the_host() {
    let nothing = spec("[recovery]\nsources = [\"checkpoint\"]\n[checkpoint]\nevery = 0");
    let local = spec("[recovery]\nsources = [\"local\"]\n[checkpoint]\nevery = 0");
    let pool = spec("[recovery]\nsources = [\"checkpoint\"]\n[checkpoint]\nevery = 5");
    let both = spec("[checkpoint]\nevery = 5");
    assert_eq!(first(&nothing, CPU).spares, 0);
    let state = first(&local, CPU);
    assert_eq!(state.spares, state.weights + state.moments);
    assert_eq!(
        first(&pool, CPU).spares,
        state.spares,
        "the pool has room for all"
    );
    assert_eq!(first(&both, CPU).spares, 2 * state.spares);
    assert_eq!(first(&both, On::Cuda).spares, 0);
}

#[test]
fn the_work_space_of_a_gpu_is_that_of_the_largest_operation() {
    let spec = spec("");
    let plan = planned(&spec);
    let of = |stage| shared_space(&spec, &plan, Rank { lane: 1, stage });
    // All of them are below a MiB, which is what it grows by.
    assert_eq!((of(0), of(1)), (1 << 20, 1 << 20));
    let mut large = spec.clone();
    large.model.vocab_size = 100_000;
    let of = |stage| shared_space(&large, &plan, Rank { lane: 1, stage });
    // The first stage adds the sums of the mirror of the whole tied matrix to its own.
    assert_eq!(of(0), (8 * 100_000 * 64_u64).next_multiple_of(1 << 20));
    assert_eq!(of(1), 1 << 20);
    let memory = memory(&spec, &plan, Rank { lane: 1, stage: 0 }, On::Cuda);
    assert_eq!(memory.workspace, (32 << 20) + (1 << 20));
}

#[test]
fn needs_are_told_from_the_largest_and_only_what_helps_is_offered() {
    let mut spec = spec("");
    let plan = planned(&spec);
    let rank = Rank { lane: 0, stage: 0 };
    let memory = Memory {
        weights: 5 << 20,
        gradients: 10 << 20,
        ..Memory::default()
    };
    assert_eq!(needs(&memory), "15 MiB (gradients 10, weights 5)");
    let text = would_help(&spec, &plan, rank, CPU);
    let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(place("training.micro_batch = 1 (") < place("training.recompute = \"block\" ("));
    assert!(place("recompute") < place("parallelism.pipeline = 4 ("));
    spec.training.micro_batch = 1;
    spec.training.recompute = Recompute::Block;
    let text = would_help(&spec, &plan, rank, CPU);
    assert!(text.starts_with("parallelism.pipeline = 4 ("), "{text}");
}
