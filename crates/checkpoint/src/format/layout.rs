//! One tensor file before it is written: its header and where each section will lie.
//!
//! In: the spans it shall hold. Out: header bytes to write first, sections to write after it without gaps, and at
//! last the [`FileEntry`], when the digests of the chunks are known.

use rekindle_types::{FileEntry, ModelConfig, Section, StateDigest};
use xxhash_rust::xxh3::xxh3_128;

use super::{DTYPE, FormatError, Result, Span, coverage, element_bytes, header_for};

/// What a file will look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLayout {
    /// The bytes before the first section; a multiple of [`super::ALIGN`].
    pub header: Vec<u8>,
    /// The sections with their offsets, still without digests.
    pub sections: Vec<Section>,
    /// Length of the whole file.
    pub bytes: u64,
}

impl FileLayout {
    /// Lays out a file of `spans`, in this order.
    ///
    /// # Errors
    /// [`FormatError::Parts`]: no spans, a span outside its layer or not of whole blocks, the same elements twice, or too many of them.
    pub fn new(config: &ModelConfig, step: u64, writer: &str, spans: &[Span]) -> Result<Self> {
        if spans.is_empty() {
            return Err(FormatError::Parts("a file must hold something".to_owned()));
        }
        for span in spans {
            coverage::check_span(config, span).map_err(FormatError::Parts)?;
        }
        coverage::check_apart(spans).map_err(FormatError::Parts)?;
        let header = header_for(config, step, writer, spans)?;
        let mut offset = header.len() as u64;
        let element = element_bytes(DTYPE).unwrap_or(0);
        let mut sections = Vec::with_capacity(spans.len());
        for span in spans {
            let Span {
                layer,
                kind,
                start,
                end,
            } = *span;
            let digests = Vec::new();
            sections.push(Section {
                layer,
                kind,
                start,
                end,
                offset,
                digests,
            });
            offset += span.len() * element;
        }
        Ok(Self {
            header,
            sections,
            bytes: offset,
        })
    }

    /// The entry of the file that was written at `path` (see [`super::part_path`]); `digests` has those of each
    /// section's chunks.
    ///
    /// # Errors
    /// [`FormatError::Parts`] for another number of digests than there are chunks.
    pub fn entry(self, path: &str, digests: Vec<Vec<StateDigest>>) -> Result<FileEntry> {
        let mut sections = self.sections;
        let counts = sections.iter().map(Section::chunk_count);
        if !counts.eq(digests.iter().map(|digests| digests.len() as u64)) {
            return Err(FormatError::Parts(format!(
                "{path} has digests for other chunks than its own"
            )));
        }
        for (section, digests) in sections.iter_mut().zip(digests) {
            section.digests = digests;
        }
        Ok(FileEntry {
            path: path.to_owned(),
            bytes: self.bytes,
            header_bytes: self.header.len() as u64,
            header_digest: StateDigest(xxh3_128(&self.header)),
            dtype: DTYPE.to_owned(),
            sections,
        })
    }
}
