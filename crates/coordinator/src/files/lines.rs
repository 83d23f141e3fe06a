//! A file of JSON lines that is only appended to.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A line is shorter than this; what is looked through for the last one.
const TAIL: u64 = 64 << 10;

/// An open file and what its last line said.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    file: File,
    pub(crate) last: Option<T>,
}

impl<T: Serialize + DeserializeOwned> Lines<T> {
    /// Opens or makes the file. What is left of a line that was cut off by a crash is removed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let (start, tail) = tail_of(&mut file)?;
        let whole = tail.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        // Without any line end in so long a tail the file isn't ours; it is left as it is and appending goes on.
        if whole < tail.len() && (whole > 0 || start == 0) {
            file.set_len(start + whole as u64)?;
        }
        let last = last_of(&tail[..whole]);
        Ok(Self { file, last })
    }

    /// Appends lines with one write.
    pub(crate) fn append(&mut self, values: Vec<T>) -> io::Result<()> {
        let mut text = Vec::new();
        for value in &values {
            serde_json::to_writer(&mut text, value)?;
            text.push(b'\n');
        }
        self.file.write_all(&text)?;
        if let Some(last) = values.into_iter().next_back() {
            self.last = Some(last);
        }
        Ok(())
    }
}

/// What the last whole line of a file says; none: there is no such file or line. Changes nothing.
pub(crate) fn last_line<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut file = File::open(path).ok()?;
    let (_, tail) = tail_of(&mut file).ok()?;
    let whole = tail.iter().rposition(|b| *b == b'\n')?;
    last_of(&tail[..whole])
}

/// The end of a file, and where it starts.
fn tail_of(file: &mut File) -> io::Result<(u64, Vec<u8>)> {
    let start = file.metadata()?.len().saturating_sub(TAIL);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.read_to_end(&mut tail)?;
    Ok((start, tail))
}

fn last_of<T: DeserializeOwned>(lines: &[u8]) -> Option<T> {
    let last = lines.split(|b| *b == b'\n').rfind(|line| !line.is_empty())?;
    serde_json::from_slice(last).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_off_line_is_removed_and_the_last_whole_one_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "1\n22\n33").unwrap();
        let mut lines = Lines::<u64>::open(&path).unwrap();
        assert_eq!(lines.last, Some(22));
        lines.append(vec![4, 5]).unwrap();
        assert_eq!(lines.last, Some(5));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n22\n4\n5\n");

        std::fs::write(&path, "77").unwrap();
        assert_eq!(Lines::<u64>::open(&path).unwrap().last, None);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
