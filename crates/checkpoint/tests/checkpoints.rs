//! Checkpoints written in one layout and read in every other, on a folder and in memory.

#![allow(clippy::unwrap_used, clippy::panic)] // The lint's exception for tests doesn't reach their helper functions.

mod support;

use std::sync::Arc;

use rekindle_checkpoint::format::{Span, needed_spans, owned_spans};
use rekindle_checkpoint::testing::{State, plan, small_model, write_checkpoint};
use rekindle_checkpoint::{Blocking, Checkpoint, Options, ReadReport, StateError, newest_valid};
use rekindle_types::{LayerId, Plan, StateKind};
use support::{S3Server, folder, memory, run_in_child, same_bits};

/// (1 rank), (4 stages), (2 x 2), (3 uneven stages), (4 lanes).
fn layouts() -> Vec<Plan> {
    vec![
        plan(1, &[8]),
        plan(1, &[2, 2, 2, 2]),
        plan(2, &[4, 4]),
        plan(1, &[3, 4, 1]),
        plan(4, &[8]),
    ]
}

/// These spans are there, bit for bit.
fn reads_spans(checkpoint: &Checkpoint, state: &State, spans: &[Span]) -> ReadReport {
    let mut buffers: Vec<Vec<f32>> = spans
        .iter()
        .map(|span| vec![f32::NAN; span.len() as usize])
        .collect();
    let mut targets: Vec<(Span, &mut [f32])> = spans
        .iter()
        .cloned()
        .zip(buffers.iter_mut().map(Vec::as_mut_slice))
        .collect();
    let report = checkpoint.read_into(&mut targets, &Options::default()).unwrap();
    for (span, buffer) in spans.iter().zip(&buffers) {
        assert!(same_bits(buffer, state.of(span)), "{span:?} of {spans:?}");
    }
    report
}

/// Everything that the ranks of `reader` need is there, bit for bit; returns bytes wanted and read.
fn reads_back(checkpoint: &Checkpoint, state: &State, reader: &Plan) -> (u64, u64) {
    let (mut wanted, mut read) = (0, 0);
    for rank in reader.ranks() {
        let spans = checkpoint.needed(reader, rank);
        let report = reads_spans(checkpoint, state, &spans);
        wanted += report.bytes_wanted;
        read += report.bytes_read;
    }
    (wanted, read)
}

#[test]
fn every_layout_reads_what_every_layout_wrote() {
    let state = State::random(&small_model(), 1);
    for (number, writer) in layouts().iter().enumerate() {
        let (_dir, on_disk) = folder();
        for store in [on_disk, memory(&format!("layouts-{number}"))] {
            let disk = Blocking::with_store(store).unwrap();
            let manifest = disk
                .run(write_checkpoint(disk.store(), &state, writer, 50))
                .unwrap();
            assert_eq!(manifest.state_digest, state.digest());
            let checkpoint = disk.checkpoint(50).unwrap();
            assert_eq!(checkpoint.manifest(), &manifest);
            for reader in layouts() {
                let (wanted, read) = reads_back(&checkpoint, &state, &reader);
                let amplification = read as f64 / wanted as f64;
                assert!(
                    amplification <= 1.05,
                    "{writer:?} read as {reader:?}: {amplification}"
                );
            }
            let verdict = checkpoint.verify(None).unwrap();
            assert!(
                verdict.is_good() && verdict.state_digest == state.digest(),
                "{verdict:?}"
            );
            assert_eq!(verdict.report.bytes_read, manifest.total_bytes);
        }
    }
}

#[test]
fn ranks_own_everything_once_and_need_no_less() {
    for plan in layouts() {
        let model = small_model();
        let owned: u64 = plan
            .ranks()
            .flat_map(|rank| owned_spans(&model, &plan, rank))
            .map(|span| span.len())
            .sum();
        assert_eq!(owned, 3 * model.parameters());
        for rank in plan.ranks() {
            let needed = needed_spans(&model, &plan, rank);
            for span in owned_spans(&model, &plan, rank) {
                let inside = |n: &&Span| {
                    n.layer == span.layer && n.kind == span.kind && n.start <= span.start && n.end >= span.end
                };
                assert_eq!(needed.iter().filter(inside).count(), 1, "{span:?}");
            }
        }
    }
}

#[test]
fn reads_are_refused_or_reported_as_asked() {
    let disk = Blocking::with_store(memory("asked")).unwrap();
    let state = State::random(&small_model(), 2);
    disk.run(write_checkpoint(disk.store(), &state, &plan(1, &[8]), 7))
        .unwrap();
    let checkpoint = disk.checkpoint(7).unwrap();
    let weights = |layer, start: u64, end| Span {
        layer,
        kind: StateKind::Weights,
        start,
        end,
    };
    for (span, why) in [
        (weights(LayerId::Block(6), 0, 1), "block.6"),
        (weights(LayerId::Embed, 0, 65_537), "65536"),
        (weights(LayerId::Embed, 5, 5), "5..5"),
    ] {
        let error = checkpoint
            .read_ranges(&[span], &Options::default(), |_, _, _| {})
            .unwrap_err();
        assert!(
            matches!(&error, StateError::Request { why: w, .. } if w.contains(why)),
            "{error}"
        );
    }
    let mut short = vec![0.0; 9];
    let error = checkpoint.read_into(
        &mut [(weights(LayerId::Embed, 0, 10), &mut short)],
        &Options::default(),
    );
    assert!(error.unwrap_err().to_string().contains("9 values"));
    // Overlapping spans, not at borders of anything, and progress up to the end.
    let spans = [
        weights(LayerId::Embed, 3, 5000),
        weights(LayerId::Embed, 4999, 5003),
        weights(LayerId::Head, 1, 2),
    ];
    let told = std::sync::Mutex::new(Vec::new());
    let progress = |done, total| told.lock().unwrap().push((done, total));
    let options = Options {
        parallelism: 1,
        progress: Some(&progress),
    };
    let mut seen = 0;
    let report = checkpoint
        .read_ranges(&spans, &options, |span, start, values| {
            assert!(spans.contains(span));
            let part = weights(span.layer, start, start + values.len() as u64);
            assert!(part.start >= span.start && part.end <= span.end && same_bits(values, state.of(&part)));
            seen += values.len() as u64;
        })
        .unwrap();
    assert_eq!((seen, report.bytes_wanted), (4997 + 4 + 1, (4997 + 4 + 1) * 4));
    let told = told.into_inner().unwrap();
    assert_eq!(told.last(), Some(&(report.bytes_read, report.bytes_read)));
    assert!(told.len() >= 2 && told.is_sorted());
}

/// Spans of every size that overlap, start and end anywhere, and go to buffers and to a sink: the two ways of the
/// same values.
#[test]
fn buffers_and_sinks_get_the_same_values() {
    let state = State::random(&small_model(), 5);
    let (_dir, on_disk) = folder();
    for store in [on_disk, memory("random-spans")] {
        let disk = Blocking::with_store(store).unwrap();
        disk.run(write_checkpoint(disk.store(), &state, &plan(3, &[5, 3]), 5))
            .unwrap();
        let checkpoint = disk.checkpoint(5).unwrap();
        let layers: Vec<LayerId> = state.config.layers().collect();
        let mut seed = 1_u64;
        let mut below = |most: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            (seed >> 33) % most
        };
        for _ in 0..20 {
            let spans: Vec<Span> = (0..1 + below(9))
                .map(|_| {
                    let layer = layers[below(3) as usize * 3];
                    let numel = state.config.layout(layer).numel() as u64;
                    let start = below(numel);
                    let kind = StateKind::ALL[below(2) as usize];
                    Span::new(layer, kind, start..start + 1 + below(numel - start))
                })
                .collect();
            reads_spans(&checkpoint, &state, &spans);
            let mut seen = 0;
            checkpoint
                .read_ranges(&spans, &Options::default(), |span, start, values| {
                    let part = Span::new(span.layer, span.kind, start..start + values.len() as u64);
                    assert!(same_bits(values, state.of(&part)));
                    seen += part.len();
                })
                .unwrap();
            assert_eq!(seen, spans.iter().map(Span::len).sum::<u64>());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn async_programs_read_from_a_blocking_thread() {
    let store = memory("from-async");
    let state = State::random(&small_model(), 3);
    write_checkpoint(&store, &state, &plan(1, &[8]), 7).await.unwrap();
    let checkpoint = Checkpoint::open(Arc::clone(&store), 7).await.unwrap();
    let verdict = tokio::task::spawn_blocking(move || checkpoint.verify(None))
        .await
        .unwrap()
        .unwrap();
    assert!(verdict.is_good());
}

#[test]
fn a_checkpoint_lives_on_a_real_s3_server() {
    if let Some(server) = S3Server::start() {
        run_in_child("checkpoint_on_s3", &server.environment());
    }
}

#[test]
#[ignore = "run by a_checkpoint_lives_on_a_real_s3_server, with a server"]
fn checkpoint_on_s3() {
    let url = format!("s3://{}/run/checkpoints/step-00000050", support::BUCKET);
    let (location, step) = Checkpoint::parse_url(&url).unwrap();
    let disk = Blocking::open(&location).unwrap();
    let state = State::random(&small_model(), 4);
    let manifest = disk
        .run(write_checkpoint(disk.store(), &state, &plan(2, &[4, 4]), step))
        .unwrap();
    let checkpoint = Blocking::checkpoint_at(&url).unwrap();
    assert_eq!((checkpoint.manifest(), checkpoint.url()), (&manifest, url));
    reads_back(&checkpoint, &state, &plan(1, &[3, 4, 1]));
    let (found, refused) = disk.run(newest_valid(disk.store(), &|_| Ok(()))).unwrap();
    assert_eq!((found.unwrap().manifest().step, refused.len()), (step, 0));
}
