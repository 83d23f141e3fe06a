//! From the inputs of a job file to a list of files, each with its kind.
//!
//! In: paths, folders and globs, a format. Out: [`Source`]s in a fixed order: inputs as given; inside a folder or glob by path,
//! component by component. The same file twice is kept twice (that weighs it).
//!
//! A folder gives the files that fit the format: by extension, and as text every file that is valid UTF-8. Hidden entries and links to
//! folders are left out; an input that gives nothing is an error.

use std::io::Read;
use std::path::{Path, PathBuf};

use rekindle_types::spec::DataFormat;

use crate::error::{DataError, Result, io};
use crate::sidecar::{self, Sidecar};
use crate::token_file::Width;
use crate::{glob, text};

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
                kind: kind_of(&found, format)?,
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
        kind: kind_of(path, format)?,
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
            && let Some(kind) = kind_in_folder(&path, format)?
        {
            sources.push(Source { path, kind });
        }
    }
    Ok(())
}

/// The kind of a file that was named, where a doubt is an error.
fn kind_of(path: &Path, format: DataFormat) -> Result<Kind> {
    match format {
        DataFormat::Text => Ok(Kind::Text),
        DataFormat::Jsonl => Ok(Kind::Jsonl),
        DataFormat::Parquet => Ok(Kind::Parquet),
        DataFormat::TokensU16 => Ok(Kind::Tokens(Width::U16)),
        DataFormat::TokensU32 => Ok(Kind::Tokens(Width::U32)),
        DataFormat::Auto => match by_extension(path)? {
            Some(kind) => Ok(kind),
            None if extension(path) == "bin" => {
                let why = "a .bin file without a .bin.json beside it";
                Err(DataError::UnknownFormat {
                    path: path.to_owned(),
                    why,
                })
            }
            None => Ok(Kind::Text),
        },
    }
}

/// The kind of a file that was found in a folder, none for one that doesn't belong to the format.
fn kind_in_folder(path: &Path, format: DataFormat) -> Result<Option<Kind>> {
    let tokens = |width| {
        Ok((extension(path) == "bin" || named_width(path) == Some(width)).then_some(Kind::Tokens(width)))
    };
    match format {
        DataFormat::Jsonl => Ok((by_extension(path)? == Some(Kind::Jsonl)).then_some(Kind::Jsonl)),
        DataFormat::Parquet => Ok((extension(path) == "parquet").then_some(Kind::Parquet)),
        DataFormat::TokensU16 => tokens(Width::U16),
        DataFormat::TokensU32 => tokens(Width::U32),
        DataFormat::Text => text_kind(path),
        DataFormat::Auto => match by_extension(path)? {
            Some(kind) => Ok(Some(kind)),
            None if sidecar::is_sidecar(path) => Ok(None),
            None => text_kind(path),
        },
    }
}

fn by_extension(path: &Path) -> Result<Option<Kind>> {
    Ok(match extension(path).as_str() {
        "jsonl" | "ndjson" => Some(Kind::Jsonl),
        "parquet" => Some(Kind::Parquet),
        "bin" => Sidecar::beside(path)?.map(|sidecar| Kind::Tokens(sidecar.width)),
        _ => named_width(path).map(Kind::Tokens),
    })
}

fn named_width(path: &Path) -> Option<Width> {
    match extension(path).as_str() {
        "u16" => Some(Width::U16),
        "u32" => Some(Width::U32),
        _ => None,
    }
}

fn extension(path: &Path) -> String {
    path.extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default()
}

fn text_kind(path: &Path) -> Result<Option<Kind>> {
    Ok(is_utf8(path)?.then_some(Kind::Text))
}

/// Whether a whole file is valid UTF-8. Reads up to the first byte that isn't.
fn is_utf8(path: &Path) -> Result<bool> {
    let mut file = std::fs::File::open(path).map_err(io(path))?;
    let mut buffer = vec![0; 1 << 16];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..]).map_err(io(path))?;
        let filled = kept + read;
        let Some(valid) = text::valid_prefix(&buffer[..filled]) else {
            return Ok(false);
        };
        if read == 0 {
            return Ok(valid == filled);
        }
        buffer.copy_within(valid..filled, 0);
        kept = filled - valid;
    }
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
