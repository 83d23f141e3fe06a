//! Token files: ids as little-endian u16 or u32, nothing else in the file.
//!
//! In: a path, a width, a vocabulary size. Out: mapped ids, every one checked against the vocabulary when the file is
//! opened.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result, io};

/// Bytes of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
}

impl Width {
    /// Bytes of an id.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// The narrowest width that holds ids below `vocab_size`.
    #[must_use]
    pub fn for_vocab(vocab_size: u32) -> Self {
        if vocab_size <= 1 << 16 {
            Self::U16
        } else {
            Self::U32
        }
    }

    /// Appends `ids` to `out` in this width. Ids fit (the caller chose the width by the vocabulary).
    pub(crate) fn write(self, ids: &[u32], out: &mut Vec<u8>) {
        match self {
            Self::U16 => out.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            Self::U32 => out.extend(ids.iter().flat_map(|&id| id.to_le_bytes())),
        }
    }

    /// Appends the ids in `bytes` to `out`.
    pub(crate) fn read(self, bytes: &[u8], out: &mut Vec<u32>) {
        match self {
            Self::U16 => out.extend(
                bytes
                    .chunks_exact(2)
                    .map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))),
            ),
            Self::U32 => out.extend(
                bytes
                    .chunks_exact(4)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            ),
        }
    }
}

/// A mapped token file.
#[derive(Debug)]
pub(crate) struct TokenFile {
    width: Width,
    /// None: an empty file, which can't be mapped.
    map: Option<Mmap>,
}

impl TokenFile {
    /// Maps a file and checks all its ids.
    pub(crate) fn open(path: &Path, width: Width, vocab_size: u32) -> Result<Self> {
        let file = File::open(path).map_err(io(path))?;
        let bytes = file.metadata().map_err(io(path))?.len();
        if !bytes.is_multiple_of(width.bytes() as u64) {
            return Err(DataError::OddLength {
                path: path.to_owned(),
                bytes,
                width: width.bytes() as u64,
            });
        }
        let map = if bytes == 0 {
            None
        } else {
            Some(map(&file).map_err(io(path))?)
        };
        let opened = Self { width, map };
        opened.check(path, vocab_size)?;
        Ok(opened)
    }

    pub(crate) fn width(&self) -> Width {
        self.width
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    fn check(&self, path: &Path, vocab_size: u32) -> Result<()> {
        if self.width == Width::U16 && vocab_size > u32::from(u16::MAX) {
            return Ok(());
        }
        let mut ids = Vec::new();
        let mut before = 0;
        for part in self.bytes().chunks(1 << 16) {
            ids.clear();
            self.width.read(part, &mut ids);
            if let Some(at) = ids.iter().position(|&id| id >= vocab_size) {
                let position = before + at as u64;
                return Err(DataError::TokenOutOfRange {
                    path: path.to_owned(),
                    position,
                    id: ids[at],
                    vocab_size,
                });
            }
            before += ids.len() as u64;
        }
        Ok(())
    }
}

fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is only ever read, as plain bytes, for which every content is valid. Changing or shortening
    // a file while it is trained on is outside what a job allows: like any program that maps its input, we would then
    // read other bytes or get SIGBUS.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes: &[u8], width: Width, vocab_size: u32) -> Result<Vec<u32>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.bin");
        std::fs::write(&path, bytes).unwrap();
        let file = TokenFile::open(&path, width, vocab_size)?;
        let mut ids = Vec::new();
        file.width().read(file.bytes(), &mut ids);
        Ok(ids)
    }

    #[test]
    fn both_widths_round_trip() {
        for (width, ids) in [
            (Width::U16, vec![0, 1, 65_535]),
            (Width::U32, vec![0, 65_536, 3_000_000_000]),
        ] {
            let mut bytes = Vec::new();
            width.write(&ids, &mut bytes);
            assert_eq!(open(&bytes, width, u32::MAX).unwrap(), ids);
        }
        assert!(open(&[], Width::U16, 10).unwrap().is_empty());
    }

    #[test]
    fn bad_ids_are_named_with_file_and_position() {
        let mut ids = vec![1u32; 100_000];
        ids[99_000] = 300;
        let mut bytes = Vec::new();
        Width::U16.write(&ids, &mut bytes);
        let error = open(&bytes, Width::U16, 300).unwrap_err();
        assert!(
            matches!(
                error,
                DataError::TokenOutOfRange {
                    position: 99_000,
                    id: 300,
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("t.bin"));
        assert!(open(&bytes, Width::U16, 301).is_ok());
        assert!(matches!(
            open(&bytes[1..], Width::U16, 301),
            Err(DataError::OddLength { width: 2, .. })
        ));
    }
}
