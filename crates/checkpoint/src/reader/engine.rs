//! Carrying out the reads of a plan on a few threads, each chunk verified before anybody sees it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use rekindle_types::StateDigest;
use xxhash_rust::xxh3::xxh3_128;

use super::place::{Job, Segment};
use super::plan::{Part, Read, What, plan};
use super::source::Source;
use super::{Checkpoint, Options, Progress, ReadReport};
use crate::format::{Span, block_of, check_header};
use crate::state_error::{Damage, Result, StateError};
use crate::store::{StoreError, StoreErrorKind};

/// Shows a verified chunk.
pub(super) type Show<'a> = &'a (dyn Fn(&Span, &[f32]) + Sync);
/// Says whether to go on after a damage.
pub(super) type Judge<'a> = &'a (dyn Fn(Damage) -> Result<()> + Sync);

/// What a run of the engine gives.
pub(super) struct Outcome {
    pub report: ReadReport,
    /// Sum of the digests of the chunks that were found right.
    pub state_digest: StateDigest,
}

/// What has been done so far.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    bytes: u64,
    rereads: u64,
    digest: StateDigest,
}

/// Something to be read, and what to do with it.
pub(super) struct Work<'a, 't> {
    /// The plan.
    pub reads: &'a [Read],
    /// A job for each read.
    pub jobs: &'a [Job<'t>],
    /// Is given what no job has a buffer for.
    pub show: Show<'a>,
    /// Is told of damages.
    pub judge: Judge<'a>,
    /// Whether headers are checked for what they say, too.
    pub parse: bool,
}

impl Checkpoint {
    /// The reads for `spans`.
    pub(super) fn plan(&self, spans: &[Span]) -> Result<Vec<Read>> {
        plan(self.manifest(), spans).map_err(|why| StateError::Request { url: self.url(), why })
    }

    /// The engine. The report says nothing of what was wanted.
    pub(super) fn run(&self, work: &Work<'_, '_>, options: &Options<'_>) -> Result<Outcome> {
        let start = Instant::now();
        let total: u64 = work
            .reads
            .iter()
            .map(|read| read.bytes.end - read.bytes.start)
            .sum();
        let shared = Shared {
            checkpoint: self,
            work,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            done: Mutex::new(Done::default()),
            total,
            progress: options.progress,
        };
        shared.work_together(self.threads(options).min(work.reads.len().max(1)))?;
        let done = shared.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let report = ReadReport {
            bytes_wanted: 0,
            bytes_read: total,
            reads: work.reads.len() as u64 + done.rereads,
            rereads: done.rereads,
            seconds: start.elapsed().as_secs_f64(),
        };
        Ok(Outcome {
            report,
            state_digest: done.digest,
        })
    }
}

/// What the threads of one read share.
struct Shared<'a, 't> {
    checkpoint: &'a Checkpoint,
    work: &'a Work<'a, 't>,
    next: AtomicUsize,
    stop: AtomicBool,
    done: Mutex<Done>,
    total: u64,
    progress: Option<Progress<'a>>,
}

impl Shared<'_, '_> {
    /// None of the threads is the caller's: that may be one on which waiting for a request isn't allowed.
    fn work_together(&self, threads: usize) -> Result<()> {
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            for _ in 0..threads {
                let named = std::thread::Builder::new().name("checkpoint-read".to_owned());
                match named.spawn_scoped(scope, || self.work()) {
                    Ok(thread) => running.push(thread),
                    Err(_) if !running.is_empty() => break,
                    Err(error) => return Err(StoreError::of_io(self.checkpoint.url(), &error).into()),
                }
            }
            let mut first = Ok(());
            for thread in running {
                match thread.join() {
                    Ok(result) => first = first.and(result),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            first
        })
    }

    /// Takes reads until there are none, or somebody failed.
    fn work(&self) -> Result<()> {
        let (mut source, mut buffer) = (Source::new(self.checkpoint), Vec::new());
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(read) = self.work.reads.get(number) else {
                break;
            };
            let segments = self.work.jobs[number]
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            let done = self.carry_out(&mut source, read, segments.unwrap_or_default(), &mut buffer);
            if done.is_err() {
                self.stop.store(true, Ordering::Relaxed);
                return done;
            }
        }
        Ok(())
    }

    fn carry_out(
        &self,
        source: &mut Source<'_>,
        read: &Read,
        segments: Vec<Segment<'_>>,
        buffer: &mut Vec<f32>,
    ) -> Result<()> {
        let bytes = read.bytes.end - read.bytes.start;
        let mut new = Done {
            bytes,
            ..Done::default()
        };
        match source.fetch(read.file, &read.bytes) {
            Err(error) => self.cannot_read(source, read.file, &read.parts, error)?,
            Ok(fetched) => {
                for segment in segments {
                    self.segment(source, read, fetched.as_ref(), segment, buffer, &mut new)?;
                }
            }
        }
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.bytes += new.bytes;
        done.rereads += new.rereads;
        done.digest = done.digest.add(new.digest);
        if let Some(progress) = self.progress {
            progress(done.bytes, self.total);
        }
        Ok(())
    }

    /// Reads and verifies a segment; shows it, unless it was read to where it is wanted.
    fn segment(
        &self,
        source: &mut Source<'_>,
        read: &Read,
        fetched: Option<&Bytes>,
        segment: Segment<'_>,
        buffer: &mut Vec<f32>,
        done: &mut Done,
    ) -> Result<()> {
        let parts = &read.parts[segment.parts];
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return Ok(());
        };
        let bytes = first.bytes.start..last.bytes.end;
        let show = segment.target.is_none();
        let values = match segment.target {
            Some(target) => target,
            None => {
                scratch(buffer, bytes.end - bytes.start).map_err(|why| self.too_large(source, read, why))?
            }
        };
        let space: &mut [u8] = bytemuck::cast_slice_mut(values);
        let filled = match fetched {
            Some(fetched) => {
                let at = |byte: u64| usize::try_from(byte - read.bytes.start).unwrap_or(0);
                space.copy_from_slice(&fetched[at(bytes.start)..at(bytes.end)]);
                Ok(())
            }
            None => source.read(read.file, bytes.start, space),
        };
        if let Err(error) = filled {
            return self.cannot_read(source, read.file, parts, error);
        }
        for part in parts {
            let at = |byte: u64| usize::try_from((byte - bytes.start) / 4).unwrap_or(0);
            let values = &mut values[at(part.bytes.start)..at(part.bytes.end)];
            self.verify_and_show(source, read.file, part, values, show, done)?;
        }
        Ok(())
    }

    fn too_large(&self, source: &Source<'_>, read: &Read, why: String) -> StateError {
        StateError::Request {
            url: source.url(read.file),
            why,
        }
    }

    /// A file that is gone or too short is a damage of each of its parts; other troubles are the store's.
    fn cannot_read(&self, source: &Source<'_>, file: usize, parts: &[Part], error: StoreError) -> Result<()> {
        if !matches!(error.kind(), StoreErrorKind::NotFound | StoreErrorKind::Invalid) {
            return Err(error.into());
        }
        parts
            .iter()
            .try_for_each(|part| (self.work.judge)(self.damage(source, file, part, error.to_string())))
    }

    fn damage(&self, source: &Source<'_>, file: usize, part: &Part, why: String) -> Damage {
        let span = match &part.what {
            What::Header => None,
            What::Chunk { span, .. } => Some(span.clone()),
        };
        Damage {
            url: source.url(file),
            bytes: part.bytes.clone(),
            span,
            why,
        }
    }

    fn verify_and_show(
        &self,
        source: &mut Source<'_>,
        file: usize,
        part: &Part,
        values: &mut [f32],
        show: bool,
        done: &mut Done,
    ) -> Result<()> {
        let mut verdict = self.verify(file, part, bytemuck::cast_slice(values));
        if verdict.is_err() {
            // Once more: what came over a network or a cable may be wrong though what is stored is right.
            done.rereads += 1;
            source.read(file, part.bytes.start, bytemuck::cast_slice_mut(values))?;
            verdict = self.verify(file, part, bytemuck::cast_slice(values));
        }
        match (verdict, &part.what) {
            (Err(why), _) => (self.work.judge)(self.damage(source, file, part, why))?,
            (Ok(_), What::Header) => {}
            (Ok(digest), What::Chunk { span, .. }) => {
                done.digest = done.digest.add(digest);
                to_native(values);
                if show {
                    (self.work.show)(span, values);
                }
            }
        }
        Ok(())
    }

    /// CK-13.
    fn verify(&self, file: usize, part: &Part, bytes: &[u8]) -> std::result::Result<StateDigest, String> {
        let manifest = self.checkpoint.manifest();
        let entry = &manifest.files[file];
        let (found, wanted) = match &part.what {
            What::Header => (StateDigest(xxh3_128(bytes)), Some(entry.header_digest)),
            What::Chunk { section, index, span } => {
                let found = StateDigest::of_blocks(span.layer, span.kind, block_of(span.start), bytes, 4);
                let digests = &entry.sections[*section].digests;
                (
                    found,
                    usize::try_from(*index)
                        .ok()
                        .and_then(|index| digests.get(index).copied()),
                )
            }
        };
        if Some(found) != wanted {
            let wanted = wanted.map_or("none".to_owned(), |digest| digest.to_string());
            return Err(format!("their digest is {found}, the manifest has {wanted}"));
        }
        if self.work.parse && part.what == What::Header {
            check_header(bytes, &manifest.model, entry).map_err(|e| e.to_string())?;
        }
        Ok(found)
    }
}

/// Room for `bytes` in a buffer that grows to the largest read.
fn scratch(buffer: &mut Vec<f32>, bytes: u64) -> std::result::Result<&mut [f32], String> {
    // Sections and headers are of whole elements (Manifest::check), so bytes can be read where values are wanted.
    let Ok(values) = usize::try_from(bytes / 4) else {
        return Err(format!(
            "a read of {bytes} bytes is larger than this machine's memory"
        ));
    };
    if buffer.len() < values {
        buffer.resize(values, 0.0);
    }
    Ok(&mut buffer[..values])
}

/// Files hold little-endian values.
fn to_native(values: &mut [f32]) {
    if cfg!(target_endian = "big") {
        for value in values {
            *value = f32::from_bits(value.to_bits().swap_bytes());
        }
    }
}
