//! Which bytes of which files hold the wanted elements. Pure.
//!
//! In: a manifest and spans. Out: reads in file order; each is one run of bytes, made of whole chunks and, where a file is touched, its
//! header. Neighbours become one read of up to [`LARGEST_READ`] bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rekindle_types::{FileEntry, LayerId, Section, StateKind};

use crate::format::{Manifest, Span, element_bytes};

/// Bytes of a read at most, unless a single header is longer. Two of the largest chunks.
pub const LARGEST_READ: u64 = 8 << 20;

/// One request to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Number of the file in the manifest.
    pub file: usize,
    /// What is read of it.
    pub bytes: Range<u64>,
    /// What that is, in order, without gaps.
    pub parts: Vec<Part>,
}

/// What is verified at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Bytes of the file.
    pub bytes: Range<u64>,
    /// What it is.
    pub what: What,
}

/// Header or chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The file's header.
    Header,
    /// A chunk of a section.
    Chunk {
        /// Number of the section in its file.
        section: usize,
        /// Number of the chunk in its section.
        index: u64,
        /// Its elements.
        span: Span,
    },
}

/// The spans that are wanted, by what they are of.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    spans: BTreeMap<(LayerId, StateKind), Vec<(usize, &'a Span)>>,
}

impl<'a> Wanted<'a> {
    /// Sorts `spans`.
    #[must_use]
    pub fn new(spans: &'a [Span]) -> Self {
        let mut wanted = Self::default();
        for (number, span) in spans.iter().enumerate() {
            wanted
                .spans
                .entry((span.layer, span.kind))
                .or_default()
                .push((number, span));
        }
        wanted
    }

    /// Elements of `of` that are wanted: by which span (its number), and which.
    pub fn inside<'b>(&'b self, of: &'b Span) -> impl Iterator<Item = (usize, Range<u64>)> + 'b {
        let spans = self.spans.get(&(of.layer, of.kind)).into_iter().flatten();
        spans
            .map(|(number, span)| (*number, span.start.max(of.start)..span.end.min(of.end)))
            .filter(|(_, range)| !range.is_empty())
    }
}

/// Plans the reads for `spans`, in the order of files and bytes.
///
/// # Errors
/// The first span that the model doesn't have.
pub fn plan(manifest: &Manifest, spans: &[Span]) -> Result<Vec<Read>, String> {
    check(manifest, spans)?;
    let wanted = Wanted::new(spans);
    let files = manifest.files.iter().enumerate();
    Ok(files
        .flat_map(|(number, file)| coalesce(number, parts(file, &wanted)))
        .collect())
}

fn check(manifest: &Manifest, spans: &[Span]) -> Result<(), String> {
    for span in spans {
        let known = match span.layer {
            LayerId::Block(n) => n < manifest.model.num_hidden_layers,
            LayerId::Embed | LayerId::Head => true,
        };
        let numel = if known {
            manifest.model.layout(span.layer).numel() as u64
        } else {
            0
        };
        if span.is_empty() || span.end > numel {
            let Span {
                layer,
                kind,
                start,
                end,
            } = span;
            return Err(format!(
                "elements {start}..{end} of {kind} of {layer} were asked for, it has {numel}"
            ));
        }
    }
    Ok(())
}

/// What has to be read of a file: nothing, or its header and some chunks.
fn parts(file: &FileEntry, wanted: &Wanted<'_>) -> Vec<Part> {
    let mut parts = Vec::new();
    let element = element_bytes(&file.dtype).unwrap_or(1);
    for (number, section) in file.sections.iter().enumerate() {
        for index in chunks(section, wanted) {
            let range = section.chunk(index);
            let place = |at: u64| section.offset + (at - section.start) * element;
            parts.push(Part {
                bytes: place(range.start)..place(range.end),
                what: What::Chunk {
                    section: number,
                    index,
                    span: Span::new(section.layer, section.kind, range),
                },
            });
        }
    }
    if !parts.is_empty() {
        let header = Part {
            bytes: 0..file.header_bytes,
            what: What::Header,
        };
        parts.insert(0, header);
    }
    parts
}

/// Numbers of the chunks of `section` that hold something wanted.
fn chunks(section: &Section, wanted: &Wanted<'_>) -> BTreeSet<u64> {
    let elements = section.chunk_elements();
    let number = |at: u64| (at - section.start) / elements;
    let span = Span::of(section);
    let ranges = wanted.inside(&span);
    ranges
        .flat_map(|(_, range)| number(range.start)..=number(range.end - 1))
        .collect()
}

fn coalesce(file: usize, parts: Vec<Part>) -> Vec<Read> {
    let mut reads: Vec<Read> = Vec::new();
    for part in parts {
        match reads.last_mut() {
            Some(read)
                if read.bytes.end == part.bytes.start
                    && part.bytes.end - read.bytes.start <= LARGEST_READ =>
            {
                read.bytes.end = part.bytes.end;
                read.parts.push(part);
            }
            _ => reads.push(Read {
                file,
                bytes: part.bytes.clone(),
                parts: vec![part],
            }),
        }
    }
    reads
}
