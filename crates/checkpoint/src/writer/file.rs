//! One tensor file on its way: where its bytes are, and the digests of what was read of them so far.
//!
//! The hash and the write read the same memory at different times. That they see the same bytes follows from
//! [`Held`]: what a handle gives never changes (on a CPU nobody can write memory that a handle shares, on a device
//! the handle's copy is written once, before `bytes` returns). Digests that came with the bytes were made by the
//! update that wrote them; a bit that turned over in memory since then is found when the file is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use rekindle_types::{BLOCK, FileEntry, LayerId, Section, StateDigest, StateKind};

use super::capture::{Capture, Held, HeldPart};
use super::group::{group_name, groups};
use crate::format::{FileLayout, FormatError, Span, part_path, step_folder};

/// Bytes of an element.
const ELEMENT: u64 = 4;

/// Why a file can't be finished, whatever the store does.
pub(super) type Broken = String;

/// A file that is to be written: what it consists of, and what is known of it.
pub(super) struct FileTask {
    pub content: Content,
    pub hasher: Hasher,
}

/// Where a file goes and where its bytes are.
pub(super) struct Content {
    /// Counts the files of a capture.
    pub number: u64,
    /// Inside the step's folder.
    path: String,
    /// Inside the store.
    pub key: String,
    layout: FileLayout,
    /// One for each section.
    held: Vec<Arc<dyn Held>>,
}

/// Digests of chunks, by section: those that came with the bytes, and those that were read so far.
pub(super) struct Hasher(Vec<Vec<StateDigest>>);

impl FileTask {
    /// What the manifest says of it. Lets go of the bytes.
    pub fn finish(self) -> Result<FileEntry, Broken> {
        let Content { path, layout, .. } = self.content;
        layout.entry(&path, self.hasher.0).map_err(|e| e.to_string())
    }
}

impl Content {
    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.layout.bytes
    }

    /// The bytes before the first section.
    pub fn header(&self) -> &[u8] {
        &self.layout.header
    }

    /// What holds the bytes of each section.
    pub fn held(&self) -> &[Arc<dyn Held>] {
        &self.held
    }

    /// The file's bytes, piece after piece without gaps: the header and each section.
    pub fn pieces(&self) -> Result<Vec<&[u8]>, Broken> {
        let sections = (0..self.held.len()).map(|n| self.section(n));
        std::iter::once(Ok(self.header())).chain(sections).collect()
    }

    fn section(&self, n: usize) -> Result<&[u8], Broken> {
        let span = Span::of(&self.layout.sections[n]);
        let named = |why: String| {
            format!(
                "{} of {}, elements {}..{}: {why}",
                span.kind, span.layer, span.start, span.end
            )
        };
        let bytes = self.held[n].bytes().map_err(named)?;
        let (have, want) = (bytes.len() as u64, span.len() * ELEMENT);
        if have == want {
            Ok(bytes)
        } else {
            Err(named(format!(
                "the capture has {have} bytes of it, {want} are needed (a defect of the caller)"
            )))
        }
    }
}

impl Hasher {
    fn new(parts: &[HeldPart], layout: &FileLayout) -> Result<Self, FormatError> {
        let given = |(part, section): (&HeldPart, &Section)| match &part.digests {
            Some(digests) if digests.len() as u64 != section.chunk_count() => {
                let (kind, layer, have, want) =
                    (section.kind, section.layer, digests.len(), section.chunk_count());
                let why = format!(
                    "{kind} of {layer} came with {have} digests for {want} chunks (a defect of the caller)"
                );
                Err(FormatError::Parts(why))
            }
            Some(digests) => Ok(digests.to_vec()),
            None => Ok(Vec::new()),
        };
        parts
            .iter()
            .zip(&layout.sections)
            .map(given)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Hashes every chunk that starts before byte `end` of the file and wasn't hashed yet.
    pub fn until(&mut self, content: &Content, end: u64) -> Result<(), Broken> {
        for (n, digests) in self.0.iter_mut().enumerate() {
            let section = &content.layout.sections[n];
            let chunk = section.chunk_elements();
            // Chunks that start before `end`.
            let wanted = end.saturating_sub(section.offset).div_ceil(chunk * ELEMENT);
            let wanted = wanted.min(section.chunk_count());
            if digests.len() as u64 >= wanted {
                continue;
            }
            let bytes = content.section(n)?;
            for index in digests.len() as u64..wanted {
                let elements = section.chunk(index);
                let part = &bytes[byte(elements.start - section.start)..byte(elements.end - section.start)];
                let first = usize::try_from(elements.start / BLOCK as u64).unwrap_or(usize::MAX);
                let digest = StateDigest::of_blocks(section.layer, section.kind, first, part, byte(1));
                digests.push(digest);
            }
        }
        Ok(())
    }
}

fn byte(element: u64) -> usize {
    usize::try_from(element.saturating_mul(ELEMENT)).unwrap_or(usize::MAX)
}

/// The key of a file that a manifest names by `path`.
pub(super) fn key_of(step: u64, path: &str) -> String {
    format!("{}/{path}", step_folder(step))
}

/// The files of a capture, in the order in which they are to be written: group by group, weights before moments.
pub(super) fn plan(capture: Capture, group_bytes: u64) -> Result<Vec<FileTask>, FormatError> {
    let mut order: Vec<LayerId> = Vec::new();
    let mut layers: BTreeMap<LayerId, Vec<HeldPart>> = BTreeMap::new();
    for part in capture.parts {
        let layer = part.span.layer;
        if !layers.contains_key(&layer) {
            order.push(layer);
        }
        layers.entry(layer).or_default().push(part);
    }
    let weights = |layer: &LayerId| {
        let parts = layers[layer]
            .iter()
            .filter(|part| part.span.kind == StateKind::Weights);
        parts.map(|part| part.span.len() * ELEMENT).sum::<u64>()
    };
    let sizes: Vec<u64> = order.iter().map(weights).collect();
    let mut files = Vec::new();
    for run in groups(&sizes, group_bytes) {
        let name = group_name(order[run.start], order[run.end - 1], capture.lane);
        let parts = |model: bool| -> Vec<HeldPart> {
            let all = order[run.clone()].iter().flat_map(|layer| &layers[layer]);
            let meant = |part: &&HeldPart| (part.span.kind == StateKind::Weights) == model;
            all.filter(meant).cloned().collect()
        };
        for parts in [parts(true), parts(false)] {
            let Some(first) = parts.first() else { continue };
            let path = part_path(&capture.writer, first.span.kind, &name);
            let spans: Vec<Span> = parts.iter().map(|part| part.span.clone()).collect();
            let layout = FileLayout::new(&capture.model, capture.step, &capture.writer, &spans)?;
            files.push(FileTask {
                hasher: Hasher::new(&parts, &layout)?,
                content: Content {
                    number: files.len() as u64,
                    key: key_of(capture.step, &path),
                    path,
                    layout,
                    held: parts.into_iter().map(|part| part.held).collect(),
                },
            });
        }
    }
    Ok(files)
}
