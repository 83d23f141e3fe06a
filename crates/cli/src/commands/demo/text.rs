//! Which text the demo trains on when none is named: this repository's, or whatever lies under the current directory.
//!
//! The walk is bounded in files and bytes, as the current directory may be anything.

use std::path::{Path, PathBuf};

use crate::problem::Problem;

/// Less than this isn't worth training on.
const LEAST_BYTES: u64 = 48 << 10;
/// More than this isn't needed.
const MOST_BYTES: u64 = 16 << 20;
const MOST_FILES: usize = 4_000;
const MOST_DEPTH: usize = 12;

const EXTENSIONS: &[&str] = &[
    "md", "txt", "rst", "adoc", "org", "tex", "html", "rs", "toml", "proto", "py", "c", "h", "cc", "cpp",
    "hpp", "go", "java", "js", "ts", "rb", "sh", "lua", "sql", "hs", "ml", "scala", "kt", "swift", "zig",
];
/// Folders that hold copies, builds or foreign code rather than text somebody wrote here.
const SKIPPED: &[&str] = &[
    "target",
    "node_modules",
    "vendor",
    "dist",
    "build",
    "runs",
    "venv",
    "__pycache__",
];

/// Text files under the repository or the current directory, sorted.
///
/// # Errors
/// There is too little text.
pub fn find() -> Result<Vec<PathBuf>, Problem> {
    let current = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let mut folders: Vec<PathBuf> = current
        .ancestors()
        .filter(|f| is_repository(f))
        .map(Path::to_path_buf)
        .collect();
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    folders.extend(built_from.canonicalize().ok().filter(|f| is_repository(f)));
    folders.push(current.clone());
    for folder in folders {
        let mut found = Found::default();
        found.walk(&folder, 0);
        if found.bytes >= LEAST_BYTES {
            found.files.sort();
            return Ok(found.files);
        }
    }
    Err(Problem::new(format!(
        "there is too little text to train on under {}",
        current.display()
    ))
    .cause(format!(
        "less than {} KiB of text files were found",
        LEAST_BYTES >> 10
    ))
    .fix("name some: rekindle demo --data PATH…"))
}

fn is_repository(folder: &Path) -> bool {
    folder.join("crates/cli/src/commands/demo").is_dir() && folder.join("Cargo.toml").is_file()
}

#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    bytes: u64,
}

impl Found {
    fn full(&self) -> bool {
        self.files.len() >= MOST_FILES || self.bytes >= MOST_BYTES
    }

    fn walk(&mut self, folder: &Path, depth: usize) {
        // A folder that can't be read gives nothing; the total is what counts.
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        for path in paths {
            let name = path
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            if self.full() || name.starts_with('.') || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                let skipped = SKIPPED.contains(&&*name) || name.starts_with("target-");
                if depth < MOST_DEPTH && !skipped {
                    self.walk(&path, depth + 1);
                }
            } else if is_text(&path) {
                self.bytes += path.metadata().map_or(0, |m| m.len());
                self.files.push(path);
            }
        }
    }
}

fn is_text(path: &Path) -> bool {
    let extension = path
        .extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default();
    EXTENSIONS.contains(&&*extension)
        && std::fs::read(path).is_ok_and(|bytes| std::str::from_utf8(&bytes).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_has_enough_text() {
        let files = find().unwrap();
        assert!(files.iter().any(|f| f.ends_with("docs/job-file.md")));
        assert!(
            files
                .iter()
                .all(|f| !f.components().any(|c| c.as_os_str() == "target"))
        );
        let mut sorted = files.clone();
        sorted.sort();
        assert_eq!(files, sorted);
    }
}
