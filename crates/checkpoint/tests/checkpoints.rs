//! Checkpoints written in one layout and read in every other, on a folder and in memory.

#![allow(clippy::unwrap_used, clippy::panic)] // The lint's exception for tests doesn't reach their helper functions.

use std::collections::BTreeMap;
use std::sync::Arc;

use rekindle_checkpoint::format::{Span, needed_spans, owned_spans};
use rekindle_checkpoint::store::{Fault, Faulty, Op, Store, open};
use rekindle_checkpoint::testing::{NOW, State, assemble, plan, small_model, write_checkpoint, write_parts};
use rekindle_checkpoint::{Blocking, Checkpoint, Location, Options, StateError, StoreErrorKind, commit};
use rekindle_types::{LayerId, ModelConfig, Plan, StateKind};

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

fn memory(name: &str) -> Arc<dyn Store> {
    open(&Location::parse(&format!("memory://checkpoints-{name}")).unwrap()).unwrap()
}

fn folder() -> (tempfile::TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&Location::parse(dir.path().to_str().unwrap()).unwrap()).unwrap();
    (dir, store)
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Everything that the ranks of `reader` need is there, bit for bit; returns bytes wanted and read.
fn reads_back(checkpoint: &Checkpoint, state: &State, reader: &Plan) -> (u64, u64) {
    let (mut wanted, mut read) = (0, 0);
    for rank in reader.ranks() {
        let spans = checkpoint.needed(reader, rank);
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
            assert!(same_bits(buffer, state.of(span)), "{span:?}");
        }
        assert!(report.amplification() < 1.1, "{rank}: {report:?}");
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
                println!(
                    "{} lanes x {:?} -> {} x {:?}: {amplification:.4}",
                    writer.lanes,
                    writer.stages.len(),
                    reader.lanes,
                    reader.stages.len()
                );
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
