//! Documents from JSON lines.
//!
//! In: a file of one JSON object a line, the name of the field that holds the text. Out: one document a line. Blank
//! lines and documents that are null are left out; a line that isn't an object with that field is an error naming the
//! line and the fields it has.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};

use crate::error::{DataError, Result, io};

/// Longest line, in bytes: a file without line breaks shall not fill the memory.
const LONGEST_LINE: u64 = 256 << 20;

/// The documents of a JSONL file, read as they are asked for.
pub(crate) struct JsonlFile {
    path: PathBuf,
    reader: BufReader<File>,
    field: String,
    line: u64,
}

impl JsonlFile {
    pub(crate) fn open(path: &Path, field: &str) -> Result<Self> {
        let file = File::open(path).map_err(io(path))?;
        let reader = BufReader::with_capacity(1 << 16, file);
        Ok(Self {
            path: path.to_owned(),
            reader,
            field: field.to_owned(),
            line: 0,
        })
    }

    fn next_document(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            self.line += 1;
            self.reader
                .by_ref()
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)
                .map_err(io(&self.path))?;
            if line.is_empty() {
                return Ok(None);
            }
            if line.len() as u64 == LONGEST_LINE {
                return Err(self.error(format!(
                    "longer than {} MiB; is this JSON lines?",
                    LONGEST_LINE >> 20
                )));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            if let Some(document) = self.parse(&line)? {
                return Ok(Some(document));
            }
        }
    }

    fn parse(&self, line: &[u8]) -> Result<Option<String>> {
        let mut json = serde_json::Deserializer::from_slice(line);
        let parsed = Pick(&self.field)
            .deserialize(&mut json)
            .and_then(|text| json.end().map(|()| text));
        parsed.map_err(|error| self.error(error.to_string()))
    }

    fn error(&self, why: String) -> DataError {
        DataError::Json {
            path: self.path.clone(),
            line: self.line,
            why,
        }
    }
}

impl Iterator for JsonlFile {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_document().transpose()
    }
}

/// Takes one field of an object and skips the others without keeping them.
struct Pick<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = Option<String>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with a text field {:?}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut found = None;
        let mut others: Vec<String> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(map.next_value::<Option<String>>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
                if others.len() < 10 {
                    others.push(key);
                }
            }
        }
        found.ok_or_else(|| {
            let others = others.join(", ");
            A::Error::custom(format!(
                "no field {:?}; set data.text_field to one of: {others}",
                self.0
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str, field: &str) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        std::fs::write(&path, content).unwrap();
        JsonlFile::open(&path, field)?.collect()
    }

    #[test]
    fn picks_the_field_of_every_line() {
        let lines = "{\"id\":1,\"text\":\"a\\nb\"}\n\n{\"text\":null}\r\n{\"meta\":{\"text\":\"no\"},\"text\":\"\\u00e9\"}";
        assert_eq!(read(lines, "text").unwrap(), ["a\nb", "é"]);
        assert_eq!(read("{\"body\":\"x\"}\n", "body").unwrap(), ["x"]);
        assert!(read("", "text").unwrap().is_empty());
    }

    #[test]
    fn errors_name_line_and_fields() {
        for (content, wanted) in [
            (
                "{\"text\":\"a\"}\n{\"body\":\"b\",\"id\":1}\n",
                vec!["line 2", "\"text\"", "body, id"],
            ),
            ("{\"text\":5}\n", vec!["line 1", "string"]),
            ("[1]\n", vec!["line 1", "object"]),
            ("{\"text\":\"a\"", vec!["line 1"]),
            ("{\"text\":\"a\"} x\n", vec!["line 1", "trailing"]),
        ] {
            let error = read(content, "text").unwrap_err().to_string();
            assert!(wanted.iter().all(|w| error.contains(w)), "{error}");
        }
    }
}
