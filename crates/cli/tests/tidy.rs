//! Habits that no lint checks: every module says what it is, every invariant's label is unique, no file grows without
//! end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Longest source file, counted without its inline tests.
const MOST_LINES: usize = 400;
/// Files that were longer when the limit came, with what they may have at most; they may only shrink.
const LONGER: &[(&str, usize)] = &[
    // One trait implementation, which can't be cut in two.
    ("compute/src/cpu/ops.rs", 560),
    ("compute/src/cpu/attention.rs", 460),
];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every source file of every crate, with its text.
fn all() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(crates()).unwrap() {
        sources(&entry.unwrap().path().join("src"), &mut found);
    }
    assert!(found.len() > 50, "only {} sources found", found.len());
    found.sort();
    found
        .into_iter()
        .map(|p| (p.clone(), std::fs::read_to_string(&p).unwrap()))
        .collect()
}

/// The labels (`XY-1`) that a file defines: at the start of a list item of its header.
fn labels(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("//! - "))
        .filter_map(|item| item.split_whitespace().next())
        .filter(|word| is_label(word))
        .collect()
}

fn is_label(word: &str) -> bool {
    let Some((letters, number)) = word.split_once('-') else {
        return false;
    };
    letters.len() == 2
        && letters.chars().all(|c| c.is_ascii_uppercase())
        && !number.is_empty()
        && number.chars().all(|c| c.is_ascii_digit())
}

#[test]
fn every_source_file_starts_with_what_it_is() {
    let bare: Vec<_> = all()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(p, _)| p)
        .collect();
    assert!(bare.is_empty(), "no header: {bare:#?}");
}

#[test]
fn labels_of_invariants_are_unique_and_listed() {
    let listed = std::fs::read_to_string(crates().parent().unwrap().join("ARCHITECTURE.md")).unwrap();
    let mut owners: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (path, text) in all() {
        for label in labels(&text) {
            if let Some(other) = owners.insert(label.to_owned(), path.clone()) {
                panic!("{label} is defined in {} and {}", other.display(), path.display());
            }
            assert!(
                listed.contains(&format!("{label} ")),
                "ARCHITECTURE.md doesn't list {label} of {}",
                path.display()
            );
        }
    }
    assert!(owners.len() > 20, "only {} labels found", owners.len());
    for word in listed
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|w| is_label(w))
    {
        assert!(
            owners.contains_key(word),
            "ARCHITECTURE.md lists {word}, which no source defines"
        );
    }
}

#[test]
fn no_source_file_is_too_long() {
    for (path, text) in all() {
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        let most = LONGER
            .iter()
            .find(|(name, _)| path.ends_with(name))
            .map_or(MOST_LINES, |(_, most)| *most);
        assert!(
            lines <= most,
            "{} has {lines} lines of at most {most}; split it",
            path.display()
        );
    }
}

#[test]
fn documents_name_only_files_that_exist() {
    let root = crates().parent().unwrap().to_path_buf();
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for path in text.split('`').skip(1).step_by(2) {
            let local = ["crates/", "docs/", "scripts/", "proto/", ".ci/"]
                .iter()
                .any(|p| path.starts_with(p));
            let plain = !path.contains(['*', ' ', '<', '{']);
            if local && plain {
                assert!(
                    root.join(path).exists(),
                    "{document} names {path}, which doesn't exist"
                );
            }
        }
    }
}
