//! Following the log files of a run's folder, in bounded pieces. Blocking: not for async tasks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Longest line that is given out whole.
const LONGEST: usize = 16 << 10;
/// Bytes read from one file at a time.
const PIECE: usize = 64 << 10;
/// Bytes looked through for the last lines of a file.
const TAIL: u64 = 8 << 20;
/// Files followed at once.
const MOST_FILES: usize = 4096;

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogLine {
    pub(crate) process: String,
    pub(crate) text: String,
}

/// All log files of a run, from where they were left.
#[derive(Debug)]
pub(crate) struct LogTail {
    folder: PathBuf,
    process: Option<String>,
    tail: Option<u32>,
    files: BTreeMap<String, Place>,
    first: bool,
}

/// How far a file was read.
#[derive(Debug, Default)]
struct Place {
    offset: u64,
    /// The beginning of a line whose end hasn't come yet.
    partial: Vec<u8>,
    /// The rest of too long a line is left out.
    skipping: bool,
}

impl LogTail {
    /// The files `*.log` in `folder`, or only that of `process`; only the last `tail` lines of what is there now.
    pub(crate) fn new(folder: PathBuf, process: Option<String>, tail: Option<u32>) -> Self {
        Self {
            folder,
            process,
            tail,
            files: BTreeMap::new(),
            first: true,
        }
    }

    /// Whether any file was found so far.
    pub(crate) fn found_any(&self) -> bool {
        !self.files.is_empty()
    }

    /// The next lines: at most a piece of each file. Empty: nothing new.
    pub(crate) fn poll(&mut self) -> io::Result<Vec<LogLine>> {
        self.look_for_files()?;
        let mut lines = Vec::new();
        for (process, place) in &mut self.files {
            let path = self.folder.join(format!("{process}.log"));
            place.read(&path, &mut |text| {
                lines.push(LogLine {
                    process: process.clone(),
                    text,
                });
            })?;
        }
        Ok(lines)
    }

    /// What is left of lines that never ended.
    pub(crate) fn rest(&mut self) -> Vec<LogLine> {
        let rest = |(process, place): (&String, &mut Place)| {
            (!place.partial.is_empty()).then(|| LogLine {
                process: process.clone(),
                text: text(&std::mem::take(&mut place.partial)),
            })
        };
        self.files.iter_mut().filter_map(rest).collect()
    }

    fn look_for_files(&mut self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let name = entry?.file_name();
            let Some(process) = name.to_str().and_then(|n| n.strip_suffix(".log")) else {
                continue;
            };
            let wanted = self.process.as_deref().is_none_or(|p| p == process);
            if !wanted || self.files.contains_key(process) || self.files.len() >= MOST_FILES {
                continue;
            }
            // A file that comes later is shown whole.
            let offset = match self.tail.filter(|_| self.first) {
                Some(lines) => start_of_last(&self.folder.join(&name), lines)?,
                None => 0,
            };
            let place = Place {
                offset,
                ..Place::default()
            };
            self.files.insert(process.to_owned(), place);
        }
        self.first = false;
        Ok(())
    }
}

impl Place {
    fn read(&mut self, path: &Path, give: &mut dyn FnMut(String)) -> io::Result<()> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        if file.metadata()?.len() < self.offset {
            // It was begun anew.
            *self = Self::default();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut piece = Vec::new();
        file.take(PIECE as u64).read_to_end(&mut piece)?;
        self.offset += piece.len() as u64;
        for part in piece.split_inclusive(|b| *b == b'\n') {
            self.add(part, give);
        }
        Ok(())
    }

    fn add(&mut self, part: &[u8], give: &mut dyn FnMut(String)) {
        let (body, ends) = match part.strip_suffix(b"\n") {
            Some(body) => (body, true),
            None => (part, false),
        };
        if !self.skipping {
            self.partial.extend_from_slice(body);
        }
        let too_long = self.partial.len() > LONGEST;
        if !self.skipping && (ends || too_long) {
            self.partial.truncate(LONGEST);
            give(text(&std::mem::take(&mut self.partial)));
        }
        self.skipping = !ends && (self.skipping || too_long);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\r').to_owned()
}

/// Where the last `lines` lines of a file begin; no further back than [`TAIL`].
fn start_of_last(path: &Path, lines: u32) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    if lines == 0 {
        return Ok(start + bytes.len() as u64);
    }
    let ends = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n');
    let at = ends.map(|(at, _)| at + 1).nth(lines as usize - 1).unwrap_or(0);
    Ok(start + at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn tails_then_follows_lines_as_they_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker-0.log");
        fs::write(&path, "a\nb\nc\n").unwrap();
        fs::write(folder.path().join("other.txt"), "no log\n").unwrap();
        let mut tail = LogTail::new(folder.path().into(), None, Some(2));
        assert_eq!(texts(&tail.poll().unwrap()), ["b", "c"]);
        fs::write(&path, "a\nb\nc\nd").unwrap();
        assert!(tail.poll().unwrap().is_empty());
        fs::write(&path, "a\nb\nc\nde\nf").unwrap();
        assert_eq!(texts(&tail.poll().unwrap()), ["de"]);
        assert_eq!(texts(&tail.rest()), ["f"]);
        fs::write(folder.path().join("worker-1.log"), "late\n").unwrap();
        assert_eq!(texts(&tail.poll().unwrap()), ["late"]);
    }

    #[test]
    fn long_lines_are_cut_and_nothing_else_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(3 * PIECE);
        fs::write(folder.path().join("w.log"), format!("{long}\nnext\n")).unwrap();
        let mut tail = LogTail::new(folder.path().into(), Some("w".into()), None);
        let mut all = Vec::new();
        for _ in 0..5 {
            all.extend(tail.poll().unwrap());
        }
        assert_eq!(all[0].text.len(), LONGEST);
        assert_eq!(texts(&all[1..]), ["next"]);
    }

    #[test]
    fn a_missing_folder_has_no_lines_and_only_named_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut none = LogTail::new(folder.path().join("missing"), None, None);
        assert!(none.poll().unwrap().is_empty() && !none.found_any());
        fs::write(folder.path().join("a.log"), "a\n").unwrap();
        let mut other = LogTail::new(folder.path().into(), Some("../a".into()), None);
        assert!(other.poll().unwrap().is_empty() && !other.found_any());
    }
}
