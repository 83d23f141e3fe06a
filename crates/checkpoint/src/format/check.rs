//! CK-10: whether a manifest fits together, and can be followed without leaving its folder.

use std::collections::BTreeSet;

use rekindle_types::{FileEntry, StateDigest};

use super::{FormatError, Manifest, Result, Span, coverage, element_bytes};
use crate::store::check_key;

type Outcome = std::result::Result<(), String>;

fn must(good: bool, why: impl FnOnce() -> String) -> Outcome {
    if good { Ok(()) } else { Err(why()) }
}

impl Manifest {
    /// Checks everything that can be told from the manifest alone.
    ///
    /// # Errors
    /// [`FormatError::Inconsistent`] naming the file or key.
    pub fn check(&self) -> Result<()> {
        self.check_head()
            .and_then(|()| self.check_files())
            .map_err(FormatError::Inconsistent)
    }

    fn check_head(&self) -> Outcome {
        self.model.validate().map_err(|e| e.to_string())?;
        let writer = check_key("writer", &self.writer).is_ok() && !self.writer.contains('/');
        must(writer, || format!("writer {:?} is no plain name", self.writer))?;
        let layers = self.model.num_hidden_layers + 2;
        let mut next = 0;
        for &(start, end) in &self.topology.stages {
            must(start == next && end > start, || {
                "the stages of topology don't follow one another".to_owned()
            })?;
            next = end;
        }
        must(next == layers && self.topology.lanes > 0, || {
            format!(
                "topology covers {next} layers of {layers} in {} lanes",
                self.topology.lanes
            )
        })
    }

    fn check_files(&self) -> Outcome {
        let (mut paths, mut spans, mut bytes) = (BTreeSet::new(), Vec::new(), 0_u64);
        let mut digest = StateDigest::default();
        for file in &self.files {
            check_path(&file.path, &self.writer)?;
            must(paths.insert(&file.path), || {
                format!("{} is named twice", file.path)
            })?;
            check_file(file)?;
            for section in &file.sections {
                let span = Span::of(section);
                coverage::check_span(&self.model, &span).map_err(|why| format!("{}: {why}", file.path))?;
                spans.push(span);
            }
            bytes = bytes
                .checked_add(file.bytes)
                .ok_or("files have more than 2^64 bytes")?;
            digest = digest.add(file.state_digest());
        }
        coverage::check_whole(&self.model, &spans)?;
        must(bytes == self.total_bytes, || {
            format!("files have {bytes} bytes, total_bytes says {}", self.total_bytes)
        })?;
        must(digest == self.state_digest, || {
            format!(
                "the files' digests add up to {digest}, state_digest says {}",
                self.state_digest
            )
        })
    }
}

/// CK-5: inside the writer's folder of the step.
pub(super) fn check_path(path: &str, writer: &str) -> Outcome {
    check_key("manifest", path).map_err(|e| e.to_string())?;
    let inside = path
        .strip_prefix(writer)
        .is_some_and(|rest| rest.starts_with('/'));
    must(inside, || {
        format!("{path:?} is not in the folder of the writer {writer:?}")
    })
}

/// Sections follow the header and one another up to the file's end; every chunk has a digest.
pub(super) fn check_file(file: &FileEntry) -> Outcome {
    let path = &file.path;
    let element = element_bytes(&file.dtype)
        .ok_or_else(|| format!("{path} has elements of unknown type {}", file.dtype))?;
    must(
        file.header_bytes >= 8 && file.header_bytes.is_multiple_of(8),
        || {
            format!(
                "{path} has a header of {} bytes, not of a multiple of 8",
                file.header_bytes
            )
        },
    )?;
    let mut next = file.header_bytes;
    for section in &file.sections {
        let span = Span::of(section);
        let place = || {
            format!(
                "{path}, {} of {} from element {}",
                span.kind, span.layer, span.start
            )
        };
        must(section.offset == next, || {
            format!("{}: at byte {}, not {next}", place(), section.offset)
        })?;
        let (digests, chunks) = (section.digests.len() as u64, section.chunk_count());
        must(digests == chunks, || {
            format!("{}: {digests} digests for {chunks} chunks", place())
        })?;
        let end = span
            .len()
            .checked_mul(element)
            .and_then(|bytes| next.checked_add(bytes));
        next = end.ok_or_else(|| format!("{}: it ends behind 2^64 bytes", place()))?;
    }
    must(next == file.bytes, || {
        format!("{path} has {} bytes, its sections end at {next}", file.bytes)
    })
}
