//! From the inputs of a job file to a list of files, each with its kind.
//!
//! In: paths, folders and globs, a format. Out: [`Source`]s in a fixed order: inputs as given; inside a folder or
//! glob by path, component by component. The same file twice is kept twice (that weighs it).
//!
//! A folder gives the files that fit the format: by extension, and as text every file that is valid UTF-8. Hidden
//! entries and links to folders are left out; an input that gives nothing is an error.

use std::path::{Path, PathBuf};

use rekindle_types::spec::{DataFormat, DataSpec};

use crate::error::{DataError, Result, io};
use crate::token_file::Width;
use crate::{glob, kinds};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8 text: one document.
    Text,
    /// One JSON object a line: one document each.
    Jsonl,
    /// Apache Parquet: one document a row.
    Parquet,
    /// Token ids.
    Tokens(Width),
}

/// One input file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub kind: Kind,
}

/// Resolves `inputs` to files, in a fixed order.
///
/// # Errors
/// An empty list, an input that matches nothing, a file whose kind can't be told, a folder that can't be read.
pub fn resolve(inputs: &[String], format: DataFormat) -> Result<Vec<Source>> {
    if inputs.is_empty() {
        return Err(DataError::NoInputs);
    }
    let mut sources = Vec::new();
    for input in inputs {
        let before = sources.len();
        resolve_one(input, format, &mut sources)?;
        if sources.len() == before {
            return Err(DataError::NoMatch { input: input.clone() });
        }
    }
    Ok(sources)
}

fn resolve_one(input: &str, format: DataFormat, sources: &mut Vec<Source>) -> Result<()> {
    let path = Path::new(input);
    if path.exists() || !glob::is_glob(input) {
        return resolve_path(path, input, format, sources);
    }
    for found in glob::expand(input)? {
        if found.is_dir() {
            walk(&found, format, sources)?;
        } else {
            sources.push(Source {
                kind: kinds::of_named(&found, format)?,
                path: found,
            });
        }
    }
    Ok(())
}

fn resolve_path(path: &Path, input: &str, format: DataFormat, sources: &mut Vec<Source>) -> Result<()> {
    if path.is_dir() {
        return walk(path, format, sources);
    }
    if !path.exists() {
        return Err(DataError::NoMatch {
            input: input.to_owned(),
        });
    }
    sources.push(Source {
        path: path.to_owned(),
        kind: kinds::of_named(path, format)?,
    });
    Ok(())
}

fn walk(folder: &Path, format: DataFormat, sources: &mut Vec<Source>) -> Result<()> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io(folder))? {
        entries.push(entry.map_err(io(folder))?.file_name());
    }
    entries.sort();
    for name in entries {
        let path = folder.join(&name);
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if !path.is_symlink() {
                walk(&path, format, sources)?;
            }
        } else if path.is_file()
            && let Some(kind) = kinds::of_found(&path, format)?
        {
            sources.push(Source { path, kind });
        }
    }
    Ok(())
}

/// Whether the inputs of a job are token files, as far as their names and the format tell without opening any folder.
pub(crate) fn are_token_files(data: &DataSpec) -> bool {
    let is_tokens = |input: &String| {
        let path = Path::new(input);
        path.is_file() && matches!(kinds::of_named(path, data.format), Ok(Kind::Tokens(_)))
    };
    matches!(data.format, DataFormat::TokensU16 | DataFormat::TokensU32)
        || data.train.iter().chain(&data.val).all(is_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    fn names(dir: &tempfile::TempDir, inputs: &[&str], format: DataFormat) -> Result<Vec<(String, Kind)>> {
        let inputs: Vec<String> = inputs
            .iter()
            .map(|i| dir.path().join(i).display().to_string())
            .collect();
        let name = |s: Source| {
            (
                s.path.strip_prefix(dir.path()).unwrap().display().to_string(),
                s.kind,
            )
        };
        Ok(resolve(&inputs, format)?.into_iter().map(name).collect())
    }

    #[test]
    fn a_folder_gives_its_readable_files_sorted() {
        let dir = folder(&[
            ("b.txt", b"b"),
            ("a/z.md", b"z"),
            ("a/.hidden", b"h"),
            ("a/c.bin", &[0xFF, 0xFE]),
            ("d.jsonl", b"{}"),
            ("cut.txt", &[b'x', 0xC3]),
            (".git/config", b"x"),
        ]);
        let all = names(&dir, &["."], DataFormat::Auto).unwrap();
        let expected = [
            ("a/z.md", Kind::Text),
            ("b.txt", Kind::Text),
            ("d.jsonl", Kind::Jsonl),
        ];
        assert_eq!(all, expected.map(|(n, k)| (n.to_owned(), k)));
        let text = names(&dir, &["."], DataFormat::Text).unwrap();
        assert!(text.iter().all(|(_, kind)| *kind == Kind::Text), "{text:?}");
        assert_eq!(names(&dir, &["."], DataFormat::TokensU16).unwrap().len(), 1);
    }

    #[test]
    fn characters_across_buffer_borders_are_no_error() {
        let mut long = vec![b'a'; (1 << 16) - 1];
        long.extend("é".as_bytes());
        let dir = folder(&[("long.txt", &long)]);
        assert_eq!(names(&dir, &["."], DataFormat::Auto).unwrap().len(), 1);
    }

    #[test]
    fn inputs_keep_their_order_and_repeat() {
        let dir = folder(&[("a.txt", b"a"), ("b.txt", b"b")]);
        let all = names(&dir, &["b.txt", "*.txt"], DataFormat::Auto).unwrap();
        assert_eq!(
            all.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
            ["b.txt", "a.txt", "b.txt"]
        );
    }

    #[test]
    fn doubts_and_absences_are_errors() {
        let dir = folder(&[("x.bin", &[1, 0]), ("empty/.keep", b"")]);
        let error = |input, format| names(&dir, &[input], format).unwrap_err().to_string();
        assert!(error("x.bin", DataFormat::Auto).contains("data.format"));
        assert!(error("missing.txt", DataFormat::Auto).contains("missing.txt"));
        assert!(error("*.nothing", DataFormat::Auto).contains("matches no usable file"));
        assert!(error("empty", DataFormat::Auto).contains("matches no usable file"));
        assert!(matches!(resolve(&[], DataFormat::Auto), Err(DataError::NoInputs)));
        let named = names(&dir, &["x.bin"], DataFormat::TokensU32).unwrap();
        assert_eq!(named[0].1, Kind::Tokens(Width::U32));
    }
}
