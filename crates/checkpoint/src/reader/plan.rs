//! Which bytes of which files hold the wanted elements. Pure.
//!
//! In: a manifest and spans. Out: reads in file order; each is one run of bytes, made of whole chunks and, where a
//! file is touched, its header. Neighbours become one read of up to [`LARGEST_READ`] bytes.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FileLayout, owned_spans, part_path};
    use crate::testing::{NOW, assemble, plan as layout, small_model};
    use proptest::prelude::*;
    use rekindle_types::{CheckpointPart, Epoch, JobId, ModelConfig, Plan, StateDigest};

    /// A manifest whose digests are made up: planning doesn't look at them.
    fn manifest(model: &ModelConfig, run: &Plan, spans_a_file: usize) -> Manifest {
        let writer = crate::format::writer_name(&JobId::new("test-1").unwrap(), Epoch(3), NOW);
        let mut parts = Vec::new();
        for rank in run.ranks() {
            let spans = owned_spans(model, run, rank);
            let files = spans.chunks(spans_a_file).enumerate().map(|(number, spans)| {
                let layout = FileLayout::new(model, 1, &writer, spans).unwrap();
                let digests = layout
                    .sections
                    .iter()
                    .map(|s| vec![StateDigest(7); s.chunk_count() as usize]);
                let digests = digests.collect();
                let path = part_path(&writer, StateKind::Weights, &format!("{}-{number}", rank.0));
                layout.entry(&path, digests).unwrap()
            });
            parts.push(CheckpointPart {
                step: 1,
                rank,
                files: files.collect(),
                persist_seconds: 0.0,
                stall_seconds: 0.0,
            });
        }
        assemble(model, run, 1, &parts).unwrap()
    }

    fn models() -> impl Strategy<Value = ModelConfig> {
        (1_u32..40, 1_u32..60, 1_u32..5, 1_u32..3000, any::<bool>()).prop_map(
            |(hidden, inter, blocks, vocab, tie)| ModelConfig {
                hidden_size: hidden * 4,
                intermediate_size: inter * 8,
                num_hidden_layers: blocks,
                vocab_size: vocab,
                tie_word_embeddings: tie,
                ..small_model()
            },
        )
    }

    /// A cut of `layers` layers into stages.
    fn stages(layers: u32, seed: u64) -> Vec<u32> {
        let (mut left, mut seed, mut cut) = (layers, seed, Vec::new());
        while left > 0 {
            let take = 1 + (seed % 4) as u32;
            cut.push(take.min(left));
            left -= take.min(left);
            seed /= 4;
        }
        cut
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_wanted_element_is_planned_once_and_little_else(
            model in models(), lanes in 1_u32..6, seed: u64, spans_a_file in 1_usize..9,
            picks in prop::collection::vec((any::<u32>(), 0_usize..3, 0.0..1.0_f64, 0.0..1.0_f64), 1..12),
        ) {
            let run = layout(lanes, &stages(model.num_hidden_layers + 2, seed));
            let manifest = manifest(&model, &run, spans_a_file);
            let layers: Vec<LayerId> = model.layers().collect();
            let spans: Vec<Span> = picks.iter().map(|&(layer, kind, from, length)| {
                let layer = layers[layer as usize % layers.len()];
                let numel = model.layout(layer).numel() as u64;
                let start = ((numel as f64) * from) as u64;
                let end = start + 1 + (((numel - start - 1) as f64) * length) as u64;
                Span::new(layer, StateKind::ALL[kind], start..end)
            }).collect();
            let reads = plan(&manifest, &spans).unwrap();
            // In order, without overlap, each of whole neighbouring parts and not too large.
            for pair in reads.windows(2) {
                prop_assert!((pair[0].file, pair[0].bytes.end) <= (pair[1].file, pair[1].bytes.start));
            }
            for read in &reads {
                let ends: Vec<u64> = read.parts.iter().map(|part| part.bytes.end).collect();
                prop_assert_eq!(read.bytes.start, read.parts[0].bytes.start);
                prop_assert_eq!(Some(&read.bytes.end), ends.last());
                prop_assert!(read.parts.iter().skip(1).zip(&ends).all(|(part, end)| part.bytes.start == *end));
                prop_assert!(read.bytes.end - read.bytes.start <= LARGEST_READ || read.parts.len() == 1);
            }
            // Every element of every span once.
            let wanted = Wanted::new(&spans);
            let mut found = vec![0_u64; spans.len()];
            let (mut sections, mut chunk_bytes) = (BTreeSet::new(), 0_u64);
            for read in &reads {
                for part in &read.parts {
                    let What::Chunk { section, span, .. } = &part.what else { continue };
                    prop_assert_eq!(part.bytes.end - part.bytes.start, span.len() * 4);
                    let mut useful = false;
                    for (number, range) in wanted.inside(span) {
                        found[number] += range.end - range.start;
                        useful = true;
                    }
                    prop_assert!(useful, "{:?} was planned for nothing", part);
                    sections.insert((read.file, *section));
                    chunk_bytes += part.bytes.end - part.bytes.start;
                }
            }
            prop_assert!(found.iter().zip(&spans).all(|(found, span)| *found == span.len()));
            // Too much is at most two chunks for each span in each section.
            let most: u64 = sections.iter().map(|(file, section)| {
                let section = &manifest.files[*file].sections[*section];
                let of = Span::of(section);
                wanted.inside(&of).map(|(_, range)| range.end - range.start + 2 * section.chunk_elements()).sum::<u64>()
            }).sum();
            prop_assert!(chunk_bytes <= most * 4, "{} of {}", chunk_bytes, most * 4);
        }
    }
}
