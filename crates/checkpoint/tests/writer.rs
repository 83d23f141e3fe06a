//! Captures that become checkpoints: on folders, on object stores that fail, and read back by any layout.

#![allow(clippy::unwrap_used, clippy::panic)] // The lint's exception for tests doesn't reach their helper functions.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rekindle_checkpoint::format::{owned_spans, writer_name};
use rekindle_checkpoint::store::{Fault, Faulty, Op, Store, open};
use rekindle_checkpoint::testing::{NOW, State, assemble, plan, small_model};
use rekindle_checkpoint::writer::Retry;
use rekindle_checkpoint::{
    Blocking, Capture, HeldPart, Location, Options, Outcome, Span, StoreErrorKind, Writer, WriterOptions,
    commit,
};
use rekindle_types::{CheckpointPart, ModelConfig, Plan, RankId};

const LONG: Duration = Duration::from_secs(120);

/// Options under which small files are cut into many pieces.
fn options() -> WriterOptions {
    WriterOptions {
        chunk_bytes: 64 << 10,
        group_bytes: 1 << 20,
        part_bytes: 256 << 10,
        parts_at_once: 3,
        retry: Retry {
            budget: LONG,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(5),
            seed: 3,
        },
        ..WriterOptions::default()
    }
}

fn capture(state: &State, plan: &Plan, rank: RankId, step: u64) -> Capture {
    let part = |span: Span| {
        let bytes: Vec<u8> = state.of(&span).iter().flat_map(|v| v.to_le_bytes()).collect();
        let held = Arc::new(bytes);
        HeldPart {
            span,
            held,
            digests: None,
        }
    };
    let spans = owned_spans(&state.config, plan, rank);
    Capture {
        step,
        writer: writer_name(&plan.job, plan.epoch, NOW),
        rank,
        lane: (plan.lanes > 1).then(|| plan.rank(rank).lane),
        model: Arc::new(state.config.clone()),
        parts: spans.into_iter().map(part).collect(),
    }
}

/// Every rank of a plan writes its part at the same time, as trainers do.
fn write(
    store: &Arc<dyn Store>,
    state: &State,
    plan: &Plan,
    step: u64,
    options: &WriterOptions,
) -> Vec<CheckpointPart> {
    let writers: Vec<Writer> = plan
        .ranks()
        .map(|rank| {
            let writer = Writer::start(Arc::clone(store), options.clone()).unwrap();
            writer.begin(capture(state, plan, rank, step)).unwrap();
            writer
        })
        .collect();
    let outcomes = writers.iter().flat_map(|writer| writer.finish(LONG));
    outcomes
        .map(|outcome| match outcome {
            Outcome::Durable(part) => part,
            Outcome::Failed { error, .. } => panic!("{error}"),
        })
        .collect()
}

/// Commits and reads back; the digest is the state's.
fn check(store: &Arc<dyn Store>, state: &State, writer: &Plan, step: u64, parts: &[CheckpointPart]) {
    let disk = Blocking::with_store(Arc::clone(store)).unwrap();
    let manifest = assemble(&state.config, writer, step, parts).unwrap();
    assert_eq!(manifest.state_digest, state.digest());
    disk.run(commit(store, &manifest)).unwrap();
    let checkpoint = disk.checkpoint(step).unwrap();
    let verdict = checkpoint.verify(None).unwrap();
    assert!(
        verdict.is_good() && verdict.state_digest == state.digest(),
        "{verdict:?}"
    );
    for reader in [plan(1, &[8]), plan(3, &[3, 5])] {
        for rank in reader.ranks() {
            let spans = checkpoint.needed(&reader, rank);
            let mut buffers: Vec<Vec<f32>> = spans.iter().map(|s| vec![0.0; s.len() as usize]).collect();
            let mut targets: Vec<_> = spans
                .iter()
                .cloned()
                .zip(buffers.iter_mut().map(Vec::as_mut_slice))
                .collect();
            checkpoint.read_into(&mut targets, &Options::default()).unwrap();
            for (span, buffer) in spans.iter().zip(&buffers) {
                let same = buffer
                    .iter()
                    .zip(state.of(span))
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{span:?}");
            }
        }
    }
}

fn folder(path: &Path) -> Arc<dyn Store> {
    open(&Location::parse(path.to_str().unwrap()).unwrap()).unwrap()
}

fn memory(name: &str) -> Arc<dyn Store> {
    open(&Location::parse(&format!("memory://writer-{name}")).unwrap()).unwrap()
}

/// Sizes that no block and no page divides.
fn odd_model() -> ModelConfig {
    ModelConfig {
        hidden_size: 44,
        intermediate_size: 130,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 22,
        vocab_size: 1031,
        ..small_model()
    }
}

#[test]
fn what_is_written_in_any_layout_and_grouping_reads_back() {
    for (number, model) in [small_model(), odd_model()].iter().enumerate() {
        let state = State::random(model, 1);
        let layouts = [
            plan(1, &[8]),
            plan(1, &[2, 1, 4, 1]),
            plan(2, &[5, 3]),
            plan(4, &[8]),
        ];
        let sizes = [(1, true), (400 << 10, false), (2 << 20, true), (1 << 40, true)];
        for (layout, (group_bytes, direct)) in layouts.iter().zip(sizes) {
            let options = WriterOptions {
                group_bytes,
                direct,
                ..options()
            };
            let dir = tempfile::tempdir().unwrap();
            let remote = memory(&format!("layouts-{number}-{group_bytes}"));
            for store in [folder(dir.path()), remote] {
                let parts = write(&store, &state, layout, 50, &options);
                check(&store, &state, layout, 50, &parts);
            }
        }
    }
}

#[test]
fn names_tell_groups_and_lanes() {
    let state = State::random(&small_model(), 2);
    let layout = plan(2, &[5, 3]);
    let options = WriterOptions {
        group_bytes: 600 << 10,
        ..options()
    };
    let parts = write(&memory("names"), &state, &layout, 1, &options);
    let mut names: Vec<&str> = parts
        .iter()
        .flat_map(|part| &part.files)
        .map(|file| file.path.split_once('/').unwrap().1)
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "model/block.2..block.3.lane-0.safetensors",
            "model/block.2..block.3.lane-1.safetensors",
            "model/block.4..head.lane-0.safetensors",
            "model/block.4..head.lane-1.safetensors",
            "model/embed..block.1.lane-0.safetensors",
            "model/embed..block.1.lane-1.safetensors",
            "optim/block.2..block.3.lane-0.safetensors",
            "optim/block.2..block.3.lane-1.safetensors",
            "optim/block.4..head.lane-0.safetensors",
            "optim/block.4..head.lane-1.safetensors",
            "optim/embed..block.1.lane-0.safetensors",
            "optim/embed..block.1.lane-1.safetensors",
        ]
    );
}

/// A file system in memory, which takes no direct writes or takes them for others.
#[test]
fn memory_file_systems_are_written_to() {
    let shared = Path::new("/dev/shm");
    if !shared.is_dir() {
        eprintln!("NOT RUN: there is no /dev/shm");
        return;
    }
    let dir = tempfile::tempdir_in(shared).unwrap();
    let (state, layout) = (State::random(&odd_model(), 3), plan(1, &[8]));
    let store = folder(dir.path());
    let parts = write(&store, &state, &layout, 1, &options());
    check(&store, &state, &layout, 1, &parts);
}

/// A disk that is really full; needs the right to mount one.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_and_can_be_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let target = std::ffi::CString::new(dir.path().to_str().unwrap()).unwrap();
    let (kind, size) = (c"tmpfs", c"size=3m");
    // SAFETY: all arguments are C strings that outlive the call.
    let mounted = unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            0,
            size.as_ptr().cast(),
        )
    };
    if mounted != 0 {
        eprintln!("NOT RUN: this process may not mount a small disk");
        return;
    }
    struct Unmount(std::ffi::CString);
    impl Drop for Unmount {
        fn drop(&mut self) {
            // SAFETY: a C string; nothing of the mount is used after this.
            unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
        }
    }
    let _unmount = Unmount(target);
    // 3 MiB, of a state of 15.
    let (state, layout) = (State::random(&small_model(), 4), plan(1, &[8]));
    let store = folder(dir.path());
    let mut options = options();
    options.retry.budget = Duration::from_millis(50);
    let writer = Writer::start(Arc::clone(&store), options).unwrap();
    writer.begin(capture(&state, &layout, RankId(0), 1)).unwrap();
    let outcomes = writer.finish(LONG);
    let [Outcome::Failed { error, attempts, .. }] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert!(
        error.contains("no space") && error.contains("step-00000001"),
        "{error}"
    );
    assert!(*attempts > 1);
    drop(writer);
    let disk = Blocking::with_store(Arc::clone(&store)).unwrap();
    assert_eq!(disk.run(store.list("")).unwrap(), [], "the space is given back");
}

fn faulty(name: &str) -> (Faulty, Arc<dyn Store>) {
    let faulty = Faulty::new(memory(name));
    (faulty.clone(), Arc::new(faulty))
}

#[test]
fn an_object_store_that_fails_now_and_then_gets_everything() {
    let (state, layout) = (State::random(&small_model(), 5), plan(1, &[4, 4]));
    let calls = [Op::StartUpload, Op::PutPart, Op::Complete];
    for (number, op) in calls.into_iter().enumerate() {
        for kind in [
            StoreErrorKind::Unavailable,
            StoreErrorKind::NoSpace,
            StoreErrorKind::Denied,
        ] {
            for fault in [Fault::Fail(kind), Fault::Lost(kind)] {
                let (faults, store) = faulty(&format!(
                    "now-and-then-{number}-{kind:?}-{}",
                    fault == Fault::Fail(kind)
                ));
                faults.next(op, 3, fault.clone());
                let parts = write(&store, &state, &layout, 2, &options());
                assert!(
                    faults.calls(Op::Abort) > 0 || op == Op::StartUpload,
                    "{op:?} {fault:?}"
                );
                check(&store, &state, &layout, 2, &parts);
            }
        }
    }
    // One request a file.
    let whole = WriterOptions {
        part_bytes: 1 << 30,
        ..options()
    };
    let (faults, store) = faulty("now-and-then-whole");
    faults.next(Op::Put, 2, Fault::Fail(StoreErrorKind::Unavailable));
    let parts = write(&store, &state, &layout, 2, &whole);
    let files: usize = parts.iter().map(|part| part.files.len()).sum();
    assert_eq!(
        (faults.calls(Op::Put), faults.calls(Op::StartUpload)),
        (files + 2, 0)
    );
    check(&store, &state, &layout, 2, &parts);
}

#[test]
fn a_request_without_an_answer_is_made_again() {
    let (state, layout) = (State::random(&small_model(), 5), plan(1, &[8]));
    for (number, op) in [Op::StartUpload, Op::PutPart, Op::Complete]
        .into_iter()
        .enumerate()
    {
        let (faults, store) = faulty(&format!("no-answer-{number}"));
        faults.next(op, 1, Fault::Hang);
        let options = WriterOptions {
            hang_timeout: Duration::from_millis(300),
            ..options()
        };
        let parts = write(&store, &state, &layout, 3, &options);
        check(&store, &state, &layout, 3, &parts);
    }
}

#[test]
fn an_object_store_that_never_works_fails_the_capture_and_leaves_nothing() {
    let (state, layout) = (State::random(&small_model(), 6), plan(1, &[8]));
    let (faults, store) = faulty("never");
    let mut options = options();
    options.retry.budget = Duration::from_millis(50);
    let writer = Writer::start(Arc::clone(&store), options).unwrap();
    for (op, kind) in [
        (Op::StartUpload, StoreErrorKind::Unavailable),
        (Op::PutPart, StoreErrorKind::Unavailable),
        (Op::Complete, StoreErrorKind::NoSpace),
    ] {
        faults.next(op, u64::MAX, Fault::Fail(kind));
        writer.begin(capture(&state, &layout, RankId(0), 4)).unwrap();
        let outcomes = writer.finish(LONG);
        let [
            Outcome::Failed {
                step: 4,
                error,
                attempts,
            },
        ] = &outcomes[..]
        else {
            panic!("{outcomes:?}")
        };
        assert!(error.contains("memory://writer-never/step-00000004/"), "{error}");
        assert!(*attempts > 1, "{op:?}");
        faults.heal();
    }
    // What makes no sense isn't tried again.
    faults.next(Op::StartUpload, u64::MAX, Fault::Fail(StoreErrorKind::Invalid));
    writer.begin(capture(&state, &layout, RankId(0), 4)).unwrap();
    let outcomes = writer.finish(LONG);
    assert!(
        matches!(&outcomes[..], [Outcome::Failed { attempts, .. }] if *attempts <= 4),
        "{outcomes:?}"
    );
    faults.heal();
    drop(writer);
    let disk = Blocking::with_store(Arc::clone(&store)).unwrap();
    assert_eq!(disk.run(store.list("")).unwrap(), []);
}

#[test]
fn a_writer_dropped_in_the_middle_of_an_upload_ends() {
    let (state, layout) = (State::random(&small_model(), 7), plan(1, &[8]));
    let (faults, store) = faulty("dropped");
    faults.next(Op::PutPart, u64::MAX, Fault::Hang);
    let writer = Writer::start(Arc::clone(&store), options()).unwrap();
    writer.begin(capture(&state, &layout, RankId(0), 5)).unwrap();
    while faults.calls(Op::PutPart) == 0 {
        std::thread::yield_now();
    }
    drop(writer);
    assert!(faults.calls(Op::Abort) > 0);
    let disk = Blocking::with_store(Arc::clone(&store)).unwrap();
    assert_eq!(disk.run(store.list("")).unwrap(), []);
}
