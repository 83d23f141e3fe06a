//! Simple globs over the local file system: `*` and `?` inside a path component, `**` for any number of folders.
//!
//! In: a pattern. Out: the paths that exist, each once, in the order of their bytes. Hidden entries match only a
//! component that starts with a dot. Deliberately absent: character classes, braces, and following links to folders
//! under `**`.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::error::{Result, io};

/// Whether `input` holds a wildcard.
pub(crate) fn is_glob(input: &str) -> bool {
    input.contains(['*', '?'])
}

/// All paths that match `pattern`.
pub(crate) fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    let mut found = BTreeSet::from([PathBuf::new()]);
    for component in Path::new(pattern).components() {
        let mut next = BTreeSet::new();
        for base in &found {
            step(base, component, &mut next)?;
        }
        found = next;
    }
    Ok(found.into_iter().filter(|path| path.exists()).collect())
}

fn step(base: &Path, component: Component<'_>, next: &mut BTreeSet<PathBuf>) -> Result<()> {
    let text = component.as_os_str().to_string_lossy();
    if text == "**" {
        return folders_below(base, next);
    }
    if !is_glob(&text) {
        next.insert(base.join(component));
        return Ok(());
    }
    for (name, path) in children(base)? {
        if (!name.starts_with('.') || text.starts_with('.')) && matches(text.as_bytes(), name.as_bytes()) {
            next.insert(path);
        }
    }
    Ok(())
}

fn folders_below(base: &Path, next: &mut BTreeSet<PathBuf>) -> Result<()> {
    for (name, path) in children(base)? {
        if !name.starts_with('.') && path.is_dir() && !path.is_symlink() {
            folders_below(&path, next)?;
        }
    }
    next.insert(base.to_owned());
    Ok(())
}

/// Names and paths in a folder; nothing when `base` is no folder.
fn children(base: &Path) -> Result<Vec<(String, PathBuf)>> {
    let folder = if base.as_os_str().is_empty() {
        Path::new(".")
    } else {
        base
    };
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io(folder))? {
        let name = entry.map_err(io(folder))?.file_name();
        all.push((name.to_string_lossy().into_owned(), base.join(name)));
    }
    Ok(all)
}

/// Whether `name` matches `pattern` (`*`: any run, `?`: any one character). Linear: only the last star is ever taken
/// back.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => {
                n += char_len(name[n]);
                p += 1;
            }
            Some(&c) if c == name[n] => {
                n += 1;
                p += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

fn char_len(first: u8) -> usize {
    match first {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_like_a_shell() {
        for (pattern, name, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?.md", "é.md", true),
            ("??.md", "é.md", false),
            ("*", "", true),
            ("?", "", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn folders_are_walked_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "b/x.txt",
            "a/y.txt",
            "a/deep/z.txt",
            "a/z.md",
            ".hidden/x.txt",
            "b/.h.txt",
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let found = |pattern: &str| -> Vec<String> {
            let all = expand(dir.path().join(pattern).to_str().unwrap()).unwrap();
            all.iter()
                .map(|p| p.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(found("*/*.txt"), ["a/y.txt", "b/x.txt"]);
        assert_eq!(found("**/*.txt"), ["a/deep/z.txt", "a/y.txt", "b/x.txt"]);
        assert_eq!(found("b/.*.txt"), ["b/.h.txt"]);
        assert!(found("nothing*/x").is_empty());
    }
}
