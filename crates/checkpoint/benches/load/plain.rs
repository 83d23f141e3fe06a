//! Plain reads of the bytes of some spans.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use rekindle_checkpoint::Checkpoint;
use rekindle_checkpoint::format::Span;

use super::{Error, paths};

/// Bytes of a read at most.
const READ: u64 = 8 << 20;
const ELEMENT: u64 = 4;

/// Reads that together are the wanted bytes and no others.
pub struct Plain {
    files: Vec<File>,
    /// File, and bytes of it.
    reads: Vec<(usize, Range<u64>)>,
}

impl Plain {
    pub fn of(checkpoint: &Checkpoint, spans: &[Span]) -> Result<Self, Error> {
        let mut runs: Vec<(usize, Range<u64>)> = Vec::new();
        for (number, file) in checkpoint.manifest().files.iter().enumerate() {
            for section in &file.sections {
                let same = |span: &&Span| span.layer == section.layer && span.kind == section.kind;
                for span in spans.iter().filter(same) {
                    let (start, end) = (span.start.max(section.start), span.end.min(section.end));
                    if start >= end {
                        continue;
                    }
                    let at = |element| section.offset + (element - section.start) * ELEMENT;
                    match runs.last_mut() {
                        Some((file, run)) if *file == number && run.end == at(start) => run.end = at(end),
                        _ => runs.push((number, at(start)..at(end))),
                    }
                }
            }
        }
        let cut = |(file, run): (usize, Range<u64>)| {
            let starts = (run.start..run.end).step_by(READ as usize);
            starts.map(move |at| (file, at..run.end.min(at + READ)))
        };
        let files = paths(checkpoint)?.into_iter().map(File::open);
        Ok(Self {
            files: files.collect::<Result<_, _>>()?,
            reads: runs.into_iter().flat_map(cut).collect(),
        })
    }

    pub fn bytes(&self) -> u64 {
        self.reads.iter().map(|(_, run)| run.end - run.start).sum()
    }

    /// Reads everything, into `memory` if there is one, which is as long.
    pub fn read(&self, threads: usize, memory: Option<&mut Vec<f32>>) -> Result<(), Error> {
        let mut rest: &mut [u8] = memory.map_or(&mut [], |memory| bytemuck::cast_slice_mut(memory));
        let mut todo = Vec::new();
        for (file, run) in &self.reads {
            let len = ((run.end - run.start) as usize).min(rest.len());
            let (target, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            todo.push((&self.files[*file], run.clone(), target));
        }
        let todo = Mutex::new(todo.into_iter());
        let next = || todo.lock().ok().and_then(|mut todo| todo.next());
        std::thread::scope(|scope| {
            let one = || {
                let mut own = vec![0; READ as usize];
                while let Some((file, run, target)) = next() {
                    let len = (run.end - run.start) as usize;
                    let target = if target.is_empty() {
                        &mut own[..len]
                    } else {
                        target
                    };
                    file.read_exact_at(target, run.start)?;
                }
                Ok(())
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            let mut ended = running.into_iter().map(|thread| thread.join());
            ended.try_for_each(|end: Result<std::io::Result<()>, _>| match end {
                Ok(read) => Ok(read?),
                Err(_) => Err("a reading thread panicked".into()),
            })
        })
    }
}
