//! One safetensors file, mapped.
//!
//! In: a path. Out: names, shapes, types and bytes of its tensors. The header is checked against the size of the
//! file, so a file that was cut short is refused at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::TensorInfo;

use crate::error::{CheckpointError, Result, io};

/// Bytes of the header's length at the start of a file.
const PREFIX: usize = 8;

/// A mapped safetensors file.
#[derive(Debug)]
pub(crate) struct Shard {
    pub path: PathBuf,
    map: Mmap,
    data: usize,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Shard {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fail = |why: String| CheckpointError::Broken {
            path: path.to_owned(),
            why,
        };
        let file = File::open(path).map_err(io(path))?;
        if file.metadata().map_err(io(path))?.len() == 0 {
            return Err(fail("it is empty".to_owned()));
        }
        let map = map(&file).map_err(io(path))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| fail(e.to_string()))?;
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.clone()))
            .collect();
        Ok(Self {
            path: path.to_owned(),
            map,
            data: PREFIX + header,
            tensors,
        })
    }

    pub(crate) fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The bytes of a tensor of this file.
    pub(crate) fn bytes(&self, info: &TensorInfo) -> &[u8] {
        &self.map[self.data + info.data_offsets.0..self.data + info.data_offsets.1]
    }
}

fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is only ever read, as plain bytes, for which every content is valid. Our own writers
    // replace files by renaming, which leaves a mapped one as it was; whoever shortens a file in place makes us fail
    // with SIGBUS, as any program that maps its input.
    unsafe { Mmap::map(file) }
}
