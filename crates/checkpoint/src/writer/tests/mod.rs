//! The writer against a file system that fails.
#![allow(clippy::unwrap_used, clippy::panic)]

mod faulty_files;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use rekindle_types::{CheckpointPart, LayerId, ModelConfig, RankId, StateKind};

use super::{Capture, Held, HeldPart, Outcome, Refused, Retry, Writer, WriterOptions};
use crate::format::{Span, owned_spans};
use crate::store::{Folder, Store};
use crate::testing::{State, plan, small_model};
use faulty_files::{Call, Fault, FaultyFiles};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const LONG: Duration = Duration::from_secs(60);
/// For captures that must fail.
const SHORT_BUDGET: Duration = Duration::from_millis(60);

fn options() -> WriterOptions {
    WriterOptions {
        group_bytes: 1500 << 10,
        chunk_bytes: 64 << 10,
        retry: Retry {
            budget: LONG,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(5),
            seed: 1,
        },
        ..WriterOptions::default()
    }
}

/// Bytes that count how many of them are held.
struct Counted {
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl Held for Counted {
    fn bytes(&self) -> Result<&[u8], String> {
        Ok(&self.bytes)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, SeqCst);
    }
}

static STATE: OnceLock<State> = OnceLock::new();

struct Bench {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    files: FaultyFiles,
    state: &'static State,
    alive: Arc<AtomicUsize>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            store: Arc::new(Folder::open(dir.path()).unwrap()),
            dir,
            files: FaultyFiles::default(),
            state: STATE.get_or_init(|| State::random(&small_model(), 5)),
            alive: Arc::default(),
        }
    }

    fn writer(&self, options: WriterOptions) -> Writer {
        Writer::with_files(Arc::clone(&self.store), options, Arc::new(self.files.clone())).unwrap()
    }

    fn capture(&self, step: u64) -> Capture {
        let spans = owned_spans(&self.state.config, &plan(1, &[8]), RankId(0));
        let parts = spans.into_iter().map(|span| {
            self.alive.fetch_add(1, SeqCst);
            let bytes = self
                .state
                .of(&span)
                .iter()
                .flat_map(|v| v.to_le_bytes())
                .collect();
            let alive = Arc::clone(&self.alive);
            HeldPart {
                span,
                held: Arc::new(Counted { bytes, alive }),
            }
        });
        Capture {
            step,
            writer: "w".to_owned(),
            rank: RankId(0),
            lane: None,
            model: Arc::new(self.state.config.clone()),
            parts: parts.collect(),
        }
    }

    /// Every file has the bytes that its entry's digests are of, and there is no other.
    fn check(&self, part: &CheckpointPart) {
        let mut digest = rekindle_types::StateDigest::default();
        for file in &part.files {
            let path = self
                .dir
                .path()
                .join(crate::format::step_folder(part.step))
                .join(&file.path);
            let bytes = std::fs::read(path).unwrap();
            assert_eq!(bytes.len() as u64, file.bytes, "{}", file.path);
            for section in &file.sections {
                let range =
                    section.offset as usize..(section.offset + 4 * (section.end - section.start)) as usize;
                let first = section.start as usize / rekindle_types::BLOCK;
                let found = rekindle_types::StateDigest::of_blocks(
                    section.layer,
                    section.kind,
                    first,
                    &bytes[range],
                    4,
                );
                digest = digest.add(found);
            }
        }
        assert_eq!(digest, self.state.digest());
        assert_eq!(
            names(&self.dir.path().join(crate::format::step_folder(part.step))),
            part.files.len()
        );
        assert_eq!(self.alive.load(SeqCst), 0, "bytes are still held");
    }
}

/// Files below a folder.
fn names(folder: &Path) -> usize {
    let Ok(listing) = std::fs::read_dir(folder) else {
        return 0;
    };
    let inside = listing.map(|item| item.unwrap().path());
    inside
        .map(|path| if path.is_dir() { names(&path) } else { 1 })
        .sum()
}

fn durable(outcomes: Vec<Outcome>) -> CheckpointPart {
    match <[Outcome; 1]>::try_from(outcomes) {
        Ok([Outcome::Durable(part)]) => part,
        other => panic!("{other:?}"),
    }
}

fn failed(outcomes: Vec<Outcome>) -> (String, u32) {
    match <[Outcome; 1]>::try_from(outcomes) {
        Ok([Outcome::Failed { error, attempts, .. }]) => (error, attempts),
        other => panic!("{other:?}"),
    }
}

/// A capture that meets `faults` and then works is durable and right; returns what was called.
fn survives(faults: &[(Call, usize, Fault)]) -> FaultyFiles {
    let bench = Bench::new();
    for &(call, count, fault) in faults {
        bench.files.next(call, count, fault);
    }
    let writer = bench.writer(options());
    writer.begin(bench.capture(7)).unwrap();
    bench.check(&durable(writer.finish(LONG)));
    bench.files
}

#[test]
fn small_layers_share_files_and_everything_is_there() {
    let files = survives(&[]);
    // 8 layers of 66 k to 180 k parameters; files of at least 300 KiB of weights.
    assert!(
        (4..=12).contains(&files.count(Call::Create)),
        "{}",
        files.count(Call::Create)
    );
    assert_eq!(files.count(Call::Create), files.count(Call::Sync));
}

#[test]
fn short_writes_are_continued() {
    let files = survives(&[(Call::Write, 40, Fault::Short(3))]);
    assert_eq!(
        files.count(Call::Create),
        survives(&[]).count(Call::Create),
        "without another attempt"
    );
    survives(&[
        (Call::Write, 5, Fault::Nothing),
        (Call::Write, 30, Fault::Short(2)),
    ]);
}

#[test]
fn what_fails_is_tried_again_from_the_start() {
    let plain = survives(&[]).count(Call::Create);
    for call in [Call::Create, Call::Reserve, Call::Write, Call::Sync] {
        for errno in [EIO, ENOSPC] {
            let files = survives(&[(call, 3, Fault::Errno(errno))]);
            assert_eq!(
                files.count(Call::Create),
                plain + 3,
                "{call:?} fails with {errno}"
            );
        }
    }
    let files = survives(&[(Call::SyncParents, 3, Fault::Errno(EIO))]);
    assert_eq!(
        files.count(Call::Create),
        plain,
        "names are synced again, not files"
    );
}

#[test]
fn a_file_system_that_takes_no_direct_writes_after_all_gets_others() {
    survives(&[(Call::Write, 1, Fault::Errno(EINVAL))]);
}

#[test]
fn a_full_disk_fails_the_capture_after_the_budget_and_not_the_next_one() {
    for call in [Call::Reserve, Call::Write, Call::SyncParents] {
        let bench = Bench::new();
        bench.files.next(call, usize::MAX, Fault::Errno(ENOSPC));
        let mut options = options();
        options.retry.budget = SHORT_BUDGET;
        let writer = bench.writer(options);
        writer.begin(bench.capture(1)).unwrap();
        let (error, attempts) = failed(writer.finish(LONG));
        assert!(
            error.contains("no space") && error.contains("step-00000001/w/"),
            "{error}"
        );
        assert!(attempts > 2, "{call:?}: {attempts}");
        bench.files.heal();
        writer.begin(bench.capture(2)).unwrap();
        bench.check(&durable(writer.finish(LONG)));
        drop(writer);
        assert_eq!(names(&bench.dir.path().join("step-00000001")), 0, "{call:?}");
    }
}

#[test]
fn a_panic_is_an_outcome_and_the_next_capture_has_a_thread() {
    let bench = Bench::new();
    let mut options = options();
    options.threads = 1;
    let writer = bench.writer(options);
    for call in [Call::Create, Call::Write, Call::SyncParents] {
        bench.files.next(call, 1, Fault::Panic);
        writer.begin(bench.capture(1)).unwrap();
        let (error, _) = failed(writer.wait(LONG));
        assert!(error.contains("panicked") && error.contains("ordered"), "{error}");
    }
    writer.begin(bench.capture(2)).unwrap();
    bench.check(&durable(writer.finish(LONG)));
}

#[test]
fn somebody_elses_file_is_an_error_at_once_and_stays() {
    let bench = Bench::new();
    let path = bench.dir.path().join("step-00000001/w/optim/head.safetensors");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "theirs").unwrap();
    let mut options = options();
    options.group_bytes = 1;
    let writer = bench.writer(options);
    writer.begin(bench.capture(1)).unwrap();
    let (error, attempts) = failed(writer.finish(LONG));
    assert!(
        error.contains("head.safetensors") && error.contains("already"),
        "{error}"
    );
    assert_eq!(attempts, 1);
    drop(writer);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
    assert_eq!(names(bench.dir.path()), 1, "ours are removed");
}

/// Bytes that come later, or never, or are others.
struct Strange(
    Box<dyn Fn() -> Result<Vec<u8>, String> + Send + Sync>,
    OnceLock<Vec<u8>>,
);

impl Held for Strange {
    fn bytes(&self) -> Result<&[u8], String> {
        let bytes = (self.0)()?;
        Ok(self.1.get_or_init(|| bytes))
    }
}

fn one_part(
    model: &ModelConfig,
    bytes: impl Fn() -> Result<Vec<u8>, String> + Send + Sync + 'static,
) -> Capture {
    let numel = model.layout(LayerId::Embed).numel() as u64;
    let held = Arc::new(Strange(Box::new(bytes), OnceLock::new()));
    Capture {
        step: 3,
        writer: "w".to_owned(),
        rank: RankId(0),
        lane: None,
        model: Arc::new(model.clone()),
        parts: vec![HeldPart {
            span: Span::new(LayerId::Embed, StateKind::Weights, 0..numel),
            held,
        }],
    }
}

#[test]
fn bytes_that_cannot_be_had_fail_the_capture_without_trying_again() {
    let bench = Bench::new();
    let writer = bench.writer(options());
    writer
        .begin(one_part(&bench.state.config, || {
            Err("the device is gone".to_owned())
        }))
        .unwrap();
    let (error, attempts) = failed(writer.wait(LONG));
    assert!(
        error.contains("weights of embed") && error.contains("device is gone"),
        "{error}"
    );
    assert_eq!(attempts, 1);
    writer
        .begin(one_part(&bench.state.config, || Ok(vec![0; 12])))
        .unwrap();
    assert!(failed(writer.wait(LONG)).0.contains("12 bytes"));
    let mut capture = bench.capture(4);
    capture.parts[2].span.start += 5;
    writer.begin(capture).unwrap();
    assert!(failed(writer.wait(LONG)).0.contains("blocks"));
    assert_eq!(names(bench.dir.path()), 0);
}

/// `begin` touches no bytes: it returns although they aren't there before it has.
#[test]
fn begin_does_not_wait_for_bytes() {
    let bench = Bench::new();
    let writer = bench.writer(options());
    let numel = bench.state.config.layout(LayerId::Embed).numel();
    let (sender, receiver) = mpsc::channel::<()>();
    let receiver = std::sync::Mutex::new(receiver);
    let bytes = move || {
        let _ = receiver.lock().unwrap().recv();
        Ok(vec![1; 4 * numel])
    };
    writer.begin(one_part(&bench.state.config, bytes)).unwrap();
    assert_eq!((writer.unfinished(), writer.poll()), (1, Vec::new()));
    drop(sender);
    durable(writer.finish(LONG));
}

#[test]
fn captures_queue_up_to_a_bound_and_are_written_in_order() {
    let bench = Bench::new();
    let mut options = options();
    (options.captures, options.threads) = (3, 1);
    let writer = bench.writer(options);
    bench.files.next(Call::Create, 1, Fault::Hang);
    let tickets: Vec<_> = (1..4)
        .map(|step| writer.begin(bench.capture(step)).unwrap())
        .collect();
    assert!(tickets.windows(2).all(|pair| pair[0] < pair[1]));
    let full = writer.begin(bench.capture(4)).unwrap_err();
    assert_eq!(full, Refused::Full { step: 4, limit: 3 });
    assert!(!writer.wait_for_room(Duration::from_millis(1)));
    bench.files.release();
    assert!(writer.wait_for_room(LONG));
    writer.begin(bench.capture(5)).unwrap();
    let outcomes = writer.finish(LONG);
    assert_eq!(
        outcomes.iter().map(Outcome::step).collect::<Vec<_>>(),
        [1, 2, 3, 5]
    );
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Durable(_)))
    );
}

#[test]
fn an_abandoned_capture_lets_go_and_leaves_nothing() {
    let bench = Bench::new();
    let mut options = options();
    options.retry.first_pause = LONG;
    options.retry.longest_pause = LONG;
    let writer = bench.writer(options);
    bench.files.next(Call::Sync, 2, Fault::Errno(EIO));
    let ticket = writer.begin(bench.capture(1)).unwrap();
    // Both threads are in their long pauses, or will be.
    writer.abandon(ticket, "nobody wants it");
    let (error, _) = failed(writer.wait(LONG));
    assert_eq!(error, "nobody wants it");
    bench.files.heal();
    writer.begin(bench.capture(2)).unwrap();
    durable(writer.finish(LONG));
    drop(writer);
    assert_eq!(bench.alive.load(SeqCst), 0);
    assert_eq!(names(&bench.dir.path().join("step-00000001")), 0);
}

#[test]
fn dropping_the_writer_while_it_writes_ends_and_cleans_up() {
    let bench = Bench::new();
    let writer = bench.writer(options());
    bench.files.next(Call::Write, 1, Fault::Hang);
    writer.begin(bench.capture(1)).unwrap();
    writer.begin(bench.capture(2)).unwrap();
    bench.files.wait_for_hang();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(writer));
        bench.files.release();
    });
    assert_eq!(bench.alive.load(SeqCst), 0);
    assert_eq!(names(bench.dir.path()), 0);
}

#[test]
fn a_file_system_that_hangs_is_an_outcome_and_keeps_nobody() {
    let bench = Bench::new();
    let mut options = options();
    options.hang_timeout = Duration::from_millis(20);
    options.retry.budget = Duration::from_millis(20);
    options.close_timeout = Duration::from_millis(20);
    let writer = bench.writer(options);
    bench.files.next(Call::Write, 2, Fault::Hang);
    writer.begin(bench.capture(1)).unwrap();
    let (error, _) = failed(writer.wait(LONG));
    assert!(error.contains("hangs"), "{error}");
    writer.begin(bench.capture(2)).unwrap();
    assert_eq!(writer.finish(LONG).len(), 1);
    drop(writer);
    // Only what the two threads have in hand is still held: the system may be reading it.
    assert!(bench.alive.load(SeqCst) < 24, "{}", bench.alive.load(SeqCst));
    bench.files.release();
}
