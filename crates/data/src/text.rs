//! Cutting documents into pieces of bounded size.
//!
//! In: a text file, or a document in memory. Out: pieces of at most [`PIECE`] bytes that concatenate to the document.
//!
//! A cut lies before a space between two words, else after a line break between two lines: both are places where the
//! pre-tokenizers of the byte-level family cut anyway, so that the tokens don't show it. Only where a piece has
//! neither, it lies between any two characters. The rule looks at the document alone: a file and the same text in
//! JSONL are cut alike.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{DataError, Result, io};

/// Longest piece, in bytes. A tokenizer takes about a hundred times as much memory while it encodes one.
pub(crate) const PIECE: usize = 1 << 16;

/// Length of the valid UTF-8 at the start of `bytes`, where only an unfinished character may follow. None: something
/// else follows.
pub(crate) fn valid_prefix(bytes: &[u8]) -> Option<usize> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Some(bytes.len()),
        Err(error) if error.error_len().is_none() => Some(error.valid_up_to()),
        Err(_) => None,
    }
}

/// Where to cut a text that goes on: the last good place, or its end.
fn cut(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_text = |at: usize| !bytes[at].is_ascii_whitespace();
    let before_space = |&at: &usize| bytes[at] == b' ' && is_text(at - 1) && is_text(at + 1);
    let after_line = |&at: &usize| bytes[at - 1] == b'\n' && is_text(at - 2) && is_text(at);
    let last = bytes.len().saturating_sub(1);
    let place = (1..last)
        .rev()
        .find(before_space)
        .or_else(|| (2..=last).rev().find(after_line));
    place.unwrap_or(bytes.len())
}

/// Cuts a document in memory.
pub(crate) fn pieces(mut text: &str) -> Vec<String> {
    let mut all = Vec::new();
    while text.len() > PIECE {
        let end = text.floor_char_boundary(PIECE);
        let (piece, rest) = text.split_at(cut(&text[..end]));
        all.push(piece.to_owned());
        text = rest;
    }
    if !text.is_empty() {
        all.push(text.to_owned());
    }
    all
}

/// The pieces of a text file, read as they are asked for.
pub(crate) struct TextFile {
    path: PathBuf,
    file: File,
    /// Bytes read but not handed out.
    pending: Vec<u8>,
    /// Offset of `pending` in the file.
    offset: u64,
}

impl TextFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            pending: Vec::new(),
            offset: 0,
        })
    }

    fn next_piece(&mut self) -> Result<Option<String>> {
        // One byte past a piece tells whether the document goes on.
        let wanted = (PIECE + 1 - self.pending.len()) as u64;
        self.file
            .by_ref()
            .take(wanted)
            .read_to_end(&mut self.pending)
            .map_err(io(&self.path))?;
        if self.pending.is_empty() {
            return Ok(None);
        }
        let more = self.pending.len() > PIECE;
        let window = &self.pending[..self.pending.len().min(PIECE)];
        let text = self.check(window, more)?;
        let end = if more { cut(text) } else { text.len() };
        let piece = text[..end].to_owned();
        self.pending.drain(..end);
        self.offset += end as u64;
        Ok(Some(piece))
    }

    fn check<'a>(&self, window: &'a [u8], more: bool) -> Result<&'a str> {
        match std::str::from_utf8(window) {
            Ok(text) => Ok(text),
            // The valid start is again valid; asking twice is cheaper than unsafe code is dear.
            Err(error) if more && error.error_len().is_none() => {
                self.check(&window[..error.valid_up_to()], false)
            }
            Err(error) => {
                let position = self.offset + error.valid_up_to() as u64;
                Err(DataError::NotUtf8 {
                    path: self.path.clone(),
                    position,
                })
            }
        }
    }
}

impl Iterator for TextFile {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_piece().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(content: &[u8]) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.txt");
        std::fs::write(&path, content).unwrap();
        TextFile::open(&path)?.collect()
    }

    #[test]
    fn files_and_memory_are_cut_alike() {
        let lines: String = (0..120_000)
            .map(|i| format!("line {i}, é\n{}", if i % 3 == 0 { "\n" } else { "" }))
            .collect();
        let wide = "é".repeat(PIECE);
        let exact = "a".repeat(PIECE);
        for text in [lines.as_str(), &wide, &exact, "short", &format!("{exact}é")] {
            let pieces = pieces(text);
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|p| p.len() <= PIECE));
            assert_eq!(from_file(text.as_bytes()).unwrap(), pieces);
        }
    }

    fn cuts(text: &str) -> Vec<String> {
        let pieces = pieces(text);
        assert!(pieces.len() > 2);
        pieces
    }

    #[test]
    fn cuts_fall_before_words_or_between_lines() {
        let many = |sentence: &str| sentence.repeat(3 * PIECE / sentence.len());
        for pair in cuts(&many("a  few words\r\n\r\n or\n more")).windows(2) {
            assert!(
                pair[0].ends_with("few") && pair[1].starts_with(" words"),
                "{:?}",
                &pair[1][..9]
            );
        }
        for pair in cuts(&many("one\n\ntwo\nthree\n\n")).windows(2) {
            assert!(
                pair[0].ends_with("two\n") && pair[1].starts_with("three"),
                "{:?}",
                &pair[1][..9]
            );
        }
        assert!(
            cuts(&many("nothing-to-cut-at-"))
                .iter()
                .rev()
                .skip(1)
                .all(|piece| piece.len() == PIECE)
        );
    }

    #[test]
    fn broken_text_is_named_with_its_byte() {
        let mut content = vec![b'a'; PIECE + 10];
        content.extend([0xFF, b'b']);
        let error = from_file(&content).unwrap_err();
        assert!(
            matches!(error, DataError::NotUtf8 { position, .. } if position == (PIECE + 10) as u64),
            "{error}"
        );
        let error = from_file("é".as_bytes().split_last().unwrap().1).unwrap_err();
        assert!(matches!(error, DataError::NotUtf8 { position: 0, .. }), "{error}");
        assert!(from_file(b"").unwrap().is_empty());
    }
}
