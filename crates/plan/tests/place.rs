//! Placement, learning rate and the report on a whole job.

#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod support;

use rekindle_plan::{BeyondMemory, PlaceError, Slot, learning_rate, place, report};
use rekindle_types::{Dtype, Epoch, JobId, Recompute, WorkerId};
use support::spec;

fn slots(names: &[&str]) -> Vec<Slot> {
    names
        .iter()
        .map(|n| Slot {
            worker: WorkerId::new(*n).unwrap(),
            threads: 1,
        })
        .collect()
}

fn job() -> JobId {
    JobId::new("t-1").unwrap()
}

#[test]
fn ranks_are_spread_over_workers_before_doubling() {
    let spec = spec("[parallelism]\npipeline = 3");
    let plan = place(&job(), Epoch(4), &spec, &slots(&["a", "a", "b", "b"])).unwrap();
    let names: Vec<_> = plan.workers.iter().map(WorkerId::as_str).collect();
    assert_eq!(names, ["a", "b", "a"]);
    assert_eq!((plan.epoch, plan.world()), (Epoch(4), 3));
    assert_eq!(plan.stages.last().unwrap().end, 8);
}

#[test]
fn auto_takes_all_slots_and_too_few_are_named() {
    let plan = place(&job(), Epoch(1), &spec(""), &slots(&["a", "b", "c", "d"])).unwrap();
    assert_eq!((plan.stage_count(), plan.lanes), (4, 1));
    let two = spec("[parallelism]\npipeline = 2\ndata = 2");
    let error = place(&job(), Epoch(1), &two, &slots(&["a", "b", "c"])).unwrap_err();
    assert_eq!(error, PlaceError::NotEnoughWorkers { needed: 4, free: 3 });
}

#[test]
fn schedules_start_and_end_where_they_should() {
    let constant = spec("[lr_schedule]\nwarmup_steps = 10");
    assert_eq!(learning_rate(&constant, 1), 0.1);
    assert_eq!(learning_rate(&constant, 10), 1.0);
    assert_eq!(learning_rate(&constant, 100), 1.0);
    let cosine = spec("[lr_schedule]\nkind = \"cosine\"\nwarmup_steps = 10\nmin_lr_ratio = 0.1");
    assert!((learning_rate(&cosine, 55) - 0.55).abs() < 1e-12);
    assert!((learning_rate(&cosine, 100) - 0.1).abs() < 1e-12);
    let wsd = spec("[lr_schedule]\nkind = \"wsd\"\nwarmup_steps = 10\ndecay_steps = 20");
    assert_eq!(learning_rate(&wsd, 80), 1.0);
    assert!((learning_rate(&wsd, 90) - 0.5).abs() < 1e-12);
    assert_eq!(learning_rate(&wsd, 100), 0.0);
}

#[test]
fn report_counts_the_bytes_of_a_tied_two_by_two() {
    let spec = spec("[parallelism]\npipeline = 2\ndata = 2");
    let plan = place(&job(), Epoch(1), &spec, &slots(&["a", "b", "c", "d"])).unwrap();
    let report = report(&spec, &plan);
    let boundary = 2 * 2 * 32 * 64 * 4;
    assert_eq!(report.links[0].bytes_per_step, boundary);
    let tied = report.links.iter().find(|l| l.what == "tied matrix").unwrap();
    assert_eq!(tied.bytes_per_step, 256 * 64 * 4);
    let held: u64 = report.stages.iter().map(|s| s.parameters).sum();
    assert_eq!(held, spec.model.parameters());
    assert!(report.to_string().contains("bubble 33.3 %"), "{report}");
}

#[test]
fn recomputation_costs_work() {
    let kept = spec("[parallelism]\npipeline = 2\ndata = 2");
    let mut again = kept.clone();
    again.training.recompute = Recompute::Block;
    let plan = place(&job(), Epoch(1), &kept, &slots(&["a", "b", "c", "d"])).unwrap();
    let (kept, again) = (report(&kept, &plan), report(&again, &plan));
    assert_eq!(kept.flops_per_step, again.flops_per_step, "a figure of the model");
    assert!(
        again.stages[0].flops_share > kept.stages[0].flops_share,
        "the head is on the other stage"
    );
}

#[test]
fn report_shows_the_memory_of_the_devices_that_the_job_may_use() {
    let wide = spec("[parallelism]\npipeline = 2\ndata = 2");
    let mut narrow = wide.clone();
    narrow.training.dtype = Dtype::Bf16;
    let plan = place(&job(), Epoch(1), &wide, &slots(&["a", "b", "c", "d"])).unwrap();
    let (wide, narrow) = (report(&wide, &plan), report(&narrow, &plan));
    assert_eq!(narrow.links, wide.links, "what is sent stays 32 bits wide");
    let (both, one) = (wide.to_string(), narrow.to_string());
    assert!(
        both.contains("MiB on a CPU") && both.contains("MiB on CUDA"),
        "{both}"
    );
    assert!(
        !one.contains("MiB on a CPU") && one.contains("MiB on CUDA"),
        "{one}"
    );
    assert!(
        one.contains("rounded") && !both.contains("rounded"),
        "{one}{both}"
    );
}

#[test]
fn report_counts_what_guards_are_sent() {
    let sent = |extra: &str, workers: &[&str]| -> u64 {
        let spec = spec(&format!("[parallelism]\npipeline = 2\ndata = 2\n{extra}"));
        let plan = place(&job(), Epoch(1), &spec, &slots(workers)).unwrap();
        let links = report(&spec, &plan).links;
        let guards = links.iter().filter(|link| link.what == "gradients to guards");
        guards.map(|link| link.bytes_per_step).sum()
    };
    let shadowed = "[recovery]\nsources = [\"local\", \"shadow\"]";
    let bytes = 4 * spec("").model.parameters() / 2;
    assert_eq!(sent(shadowed, &["a", "b", "c", "d"]), bytes);
    assert_eq!(
        sent(&format!("{shadowed}\nguards = 3"), &["a", "b", "c", "d"]),
        3 * bytes
    );
    assert_eq!(sent(shadowed, &["a", "a", "a", "a"]), 0, "nobody to guard");
    assert_eq!(sent("", &["a", "b", "c", "d"]), 0);
}

/// What sources cost and leave open, on four machines of one rank each.
#[test]
fn report_says_what_sources_survive() {
    let of = |extra: &str, workers: &[&str]| {
        let spec = spec(&format!("[parallelism]\npipeline = 2\ndata = 2\n{extra}"));
        let plan = place(&job(), Epoch(1), &spec, &slots(workers)).unwrap();
        report(&spec, &plan).recovery
    };
    let four = ["a", "b", "c", "d"];
    let shadowed = "[recovery]\nsources = [\"local\", \"shadow\"]\n[checkpoint]\nmtbf_hours = 12";
    let (alone, guarded) = (
        of(
            "[recovery]\nsources = [\"local\"]\n[checkpoint]\nmtbf_hours = 12",
            &four,
        ),
        of(shadowed, &four),
    );
    assert_eq!(alone.losses_per_week, 14.0);
    assert_eq!(
        alone.beyond_memory_per_week, 14.0,
        "every lost machine takes state with it"
    );
    assert_eq!(alone.beyond_memory, BeyondMemory::Failure);
    assert!(alone.beyond_memory_probability > 0.999_999);
    // A ring of four: of three other machines two are partners; a second loss within a minute of twelve hours.
    let second = 14.0 * (60.0 / (12.0 * 3600.0)) * 2.0 / 3.0;
    assert!(
        (guarded.beyond_memory_per_week / second - 1.0).abs() < 1e-3,
        "{guarded:?}"
    );
    assert!(
        (guarded.beyond_memory_probability / second - 1.0).abs() < 1e-2,
        "{guarded:?}"
    );
    let [local, shadow] = &guarded.sources[..] else {
        panic!("{guarded:?}")
    };
    let parameters = spec("").model.parameters();
    assert_eq!(
        shadow.bytes_per_step,
        4 * parameters,
        "every element's gradient to one guard"
    );
    assert!(local.memory_bytes < 12 * parameters && local.memory_bytes > 3 * parameters);
    assert_eq!(local.bytes_per_step, 0);
    // With two guards a ring of four has four sets of three machines, all there are; two more losses have to come
    // within the minute.
    let twice = of(
        &shadowed.replace("[checkpoint]", "guards = 2\n[checkpoint]"),
        &four,
    );
    let minute: f64 = 60.0 / (12.0 * 3600.0);
    let expected = 14.0 * minute * minute / 2.0;
    assert!(
        (twice.beyond_memory_per_week / expected - 1.0).abs() < 1e-2,
        "{twice:?}"
    );
    assert_eq!((guarded.guards, twice.guards, alone.guards), (1, 2, 0));
    assert_eq!(twice.sources[1].bytes_per_step, 2 * shadow.bytes_per_step);
    assert!(twice.sources[1].memory_bytes > shadow.memory_bytes);
    let together = of(shadowed, &["a", "a", "a", "a"]);
    assert_eq!(together.beyond_memory_per_week, 14.0, "nobody to guard");
    assert_eq!(of("", &four).beyond_memory, BeyondMemory::Beginning);
    assert_eq!(
        of("[checkpoint]\nevery = 50", &four).beyond_memory,
        BeyondMemory::Checkpoint
    );
}

/// The same for groups: any one of four machines, or any two; and with ranks that are in no group.
#[test]
fn report_says_what_groups_survive() {
    let of = |parity: &str, workers: &[&str]| {
        let text = "[parallelism]\npipeline = 2\ndata = 2\n[checkpoint]\nmtbf_hours = 12\n[recovery]\nsources = [\"local\", \"parity\"]";
        let spec = spec(&format!("{text}\n[recovery.parity]\n{parity}"));
        let plan = place(&job(), Epoch(1), &spec, &slots(workers)).unwrap();
        report(&spec, &plan).recovery
    };
    let four = ["a", "b", "c", "d"];
    let state = 12 * spec("").model.parameters();
    let one = of("every = 6", &four);
    let groups = one.parity.clone().unwrap();
    assert_eq!(
        (groups.groups.len(), groups.groups[0].len(), groups.without.len()),
        (1, 4, 0)
    );
    // A second loss within a minute of twelve hours, on any of the others.
    let second = 60.0 / (12.0 * 3600.0);
    let near = |value: f64, wanted: f64| assert!((value / wanted - 1.0).abs() < 1e-2, "{value} for {wanted}");
    near(one.beyond_memory_per_week, 14.0 * second);
    near(one.sources[1].bytes_per_step as f64, state as f64 / 6.0);
    let two = of("losses = 2", &four);
    near(two.beyond_memory_per_week, 14.0 * second * second);
    near(two.sources[1].bytes_per_step as f64, 2.0 * state as f64 / 10.0);
    // Two sets of the largest rank's state and its parities.
    let (least, most) = (2 * state / 4, 2 * state);
    assert!((least..most).contains(&one.sources[1].memory_bytes), "{one:?}");
    assert!(one.sources[1].memory_bytes < two.sources[1].memory_bytes);
    let crowded = of("", &["a", "a", "a", "b"]);
    assert_eq!(crowded.parity.clone().unwrap().without.len(), 2);
    assert!(crowded.beyond_memory_per_week > 7.0 && crowded.beyond_memory_per_week < 7.01);
    assert!(crowded.to_string().contains("can't be in a group"), "{crowded}");
    assert!(one.to_string().contains("parity: groups of 4 ranks"), "{one}");
}

const SWAP: &str = "[recovery]\nsources = [\"local\", \"neighbour_average\", \"swap\"]";

#[test]
fn with_swapped_micro_batches_every_stage_has_blocks() {
    let stages = |recovery: &str| {
        let mut spec = spec(&format!("[parallelism]\npipeline = 4\n{recovery}"));
        // A head that outweighs all blocks together.
        spec.model.vocab_size = 1 << 16;
        place(&job(), Epoch(1), &spec, &slots(&["a", "b", "c", "d"]))
            .unwrap()
            .stages
    };
    assert_eq!(stages("").last(), Some(&(7..8)), "the head alone");
    let cut = stages(SWAP);
    assert_eq!(cut.last(), Some(&(6..8)));
    assert_eq!((cut[0].start, cut.len()), (0, 4));
    assert!(cut.windows(2).all(|pair| pair[0].end == pair[1].start));
}

#[test]
fn report_counts_what_swapped_micro_batches_cost() {
    let of = |recovery: &str| {
        let spec = spec(&format!("[parallelism]\npipeline = 4\n{recovery}"));
        let plan = place(&job(), Epoch(1), &spec, &slots(&["a", "b", "c", "d"])).unwrap();
        report(&spec, &plan)
    };
    let (plain, swapped) = (
        of("[recovery]\nsources = [\"local\", \"neighbour_average\"]"),
        of(SWAP),
    );
    // Four micro-batches of 64 tokens, 64 wide: of each a boundary, or two more where it is swapped.
    let sent = |report: &rekindle_plan::PlanReport| -> u64 {
        let activations = report.links.iter().filter(|link| link.what == "activations");
        activations.map(|link| link.bytes_per_step).sum()
    };
    let boundary = 64 * 64 * 4;
    assert_eq!((sent(&plain), sent(&swapped)), (12 * boundary, 16 * boundary));
    let (embedding, norm) = (256 * 64, 64);
    let copies = swapped
        .links
        .iter()
        .filter(|link| link.what == "gradients to the ends' copies");
    let copies: Vec<_> = copies
        .map(|link| (link.between.as_str(), link.bytes_per_step))
        .collect();
    assert_eq!(
        copies,
        [
            ("stage 0 → 1, each lane", 4 * embedding),
            ("stage 3 → 2, each lane", 4 * norm)
        ]
    );
    let source = &swapped.recovery.sources[2];
    assert_eq!(
        (source.bytes_per_step, source.memory_bytes),
        (4 * (embedding + norm), 24 * embedding)
    );
    assert!(swapped.bubble_share > plain.bubble_share);
    let activations = |report: &rekindle_plan::PlanReport| report.stages[3].memory.cuda.activations;
    assert!(activations(&swapped) > activations(&plain));
}

/// With two lanes and one guard, guards keep two thirds, and losing both lanes of a stage is one more way to lose it.
#[test]
fn replicas_take_weights_out_of_guards_and_add_a_way_to_lose_them() {
    let of = |sources: &str| {
        let more = format!("[parallelism]\npipeline = 2\ndata = 2\n[recovery]\nsources = {sources}");
        let spec = spec(&more);
        let plan = place(&job(), Epoch(1), &spec, &slots(&["a", "b", "c", "d"])).unwrap();
        report(&spec, &plan).recovery
    };
    let whole = of(r#"["local", "shadow"]"#);
    let moments = of(r#"["local", "shadow", "replica"]"#);
    assert_eq!(
        3 * moments.sources[1].memory_bytes,
        2 * whole.sources[1].memory_bytes
    );
    assert_eq!(moments.sources[1].bytes_per_step, whole.sources[1].bytes_per_step);
    // Of six pairs of machines the four of a rank and its guard are one too many, and the two of a stage's lanes.
    let ratio = moments.beyond_memory_per_week / whole.beyond_memory_per_week;
    assert!((ratio - 6.0 / 4.0).abs() < 1e-9, "{ratio}");
}
