//! Captures that wait, are given up, or have bytes that can't be had.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use rekindle_types::{LayerId, ModelConfig, RankId, StateKind};

use super::super::{Capture, Held, HeldPart, Outcome, Refused};
use super::faulty_files::{Call, Fault};
use super::{Bench, EIO, LONG, durable, failed, names, options};
use crate::format::Span;

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
            digests: None,
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
    capture.parts[1].digests = Some(vec![Default::default(); 5].into());
    writer.begin(capture).unwrap();
    let (error, _) = failed(writer.wait(LONG));
    assert!(
        error.contains("exp_avg of embed") && error.contains("5 digests"),
        "{error}"
    );
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
