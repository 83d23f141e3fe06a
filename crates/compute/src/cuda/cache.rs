//! Compiled kernels, kept on disk: the next process finds them by what they were compiled from.
//!
//! In: a module and an architecture. Out: machine code. A file's name holds a hash of the source, the options, the
//! architecture and the compiler's version, so that a file is never stale. A folder that can't be used costs the time
//! to compile, nothing else.
//!
//! Deliberately absent: removing old files; each is some ten kilobytes.

use std::fs;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use super::kernels::{Module, PLATFORM};
use super::nvrtc;
use crate::Result;

/// The folder to keep code in; unset, it is `rekindle/kernels` in the user's cache folder.
pub const FOLDER_VARIABLE: &str = "REKINDLE_KERNEL_CACHE";

fn folder() -> Option<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    variable(FOLDER_VARIABLE).or_else(|| Some(cache()?.join("rekindle/kernels")))
}

fn hash(parts: &[&str]) -> u128 {
    xxh3_128(parts.join("\0").as_bytes())
}

/// Machine code for a module, compiled now or earlier. `head_dim` as for [`Module::source`].
///
/// # Errors
/// As [`nvrtc::compile`].
pub fn code(module: &Module, head_dim: usize, arch: &str) -> Result<Vec<u8>> {
    let source = module.source(PLATFORM, head_dim);
    let (major, minor) = nvrtc::version()?;
    let compiler = format!("{major}.{minor} {:?}", nvrtc::OPTIONS);
    let name = format!(
        "{}-{arch}-{:032x}.cubin",
        module.file,
        hash(&[&source, arch, &compiler])
    );
    let path = folder().map(|folder| folder.join(name));
    if let Some(code) = path.as_ref().and_then(|path| fs::read(path).ok())
        && code.starts_with(b"\x7fELF")
    {
        return Ok(code);
    }
    let code = nvrtc::compile_source(&source, module.file, arch)?;
    if let Some(path) = path {
        // A cache that can't be written is no reason to stop.
        let _ = keep(&path, &code);
    }
    Ok(code)
}

/// Whole or not at all: other processes may look for the file at the same time.
fn keep(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(folder)?;
    let part = path.with_extension(format!("part-{}", std::process::id()));
    fs::write(&part, code)?;
    fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_join_to_the_same_text_differ() {
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["ab", "c"]), hash(&["ab", "c"]));
    }
}
