//! The writer against a file system that fails: what the tests share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod failing;
mod faulty_files;
mod queueing;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rekindle_types::{CheckpointPart, RankId};

use super::{Capture, Held, HeldPart, Outcome, Retry, Writer, WriterOptions};
use crate::format::owned_spans;
use crate::store::{Folder, Store};
use crate::testing::{State, plan, small_model};
use faulty_files::FaultyFiles;

const EIO: i32 = 5;
const LONG: Duration = Duration::from_secs(60);

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
                digests: None,
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
