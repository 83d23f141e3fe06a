//! Finds CUDA's libraries at run time: by name as the system's loader knows them, then in the folders where they are
//! usually put.
//!
//! A library that is found stays loaded for good, so that cudarc, which looks by name alone, finds the same one.
//!
//! Invariants
//! - CP-5 Looking for what a machine has of CUDA never panics and never fails: what is absent is an answer that says
//!   how to get it. cudarc is called only behind [`find`], because it panics where a library is absent.
//!
//! Deliberately absent: what the libraries do.

use std::ffi::c_int;
use std::path::{Path, PathBuf};

use libloading::os::unix::Library;

/// One of CUDA's libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The driver.
    Driver,
    /// The compiler of kernels.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Communication between devices.
    Nccl,
}

/// All kinds, in the order in which they are needed.
pub const KINDS: [Kind; 4] = [Kind::Driver, Kind::Nvrtc, Kind::CublasLt, Kind::Nccl];

/// A folder (or several, with `:` between) to look in first.
pub const FOLDERS_VARIABLE: &str = "REKINDLE_CUDA_LIBRARIES";

impl Kind {
    /// Names under which it is looked for, the newest first: those that cudarc looks for, too, and for NCCL the only
    /// one there is.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &["libcuda.so.1", "libcuda.so"],
            Self::Nvrtc => &[
                "libnvrtc.so.13",
                "libnvrtc.so.12",
                "libnvrtc.so.11",
                "libnvrtc.so",
            ],
            Self::CublasLt => &[
                "libcublasLt.so.13",
                "libcublasLt.so.12",
                "libcublasLt.so.11",
                "libcublasLt.so",
            ],
            Self::Nccl => &["libnccl.so.2", "libnccl.so"],
        }
    }

    /// What it is called where a person reads it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Nvrtc => "NVRTC",
            Self::CublasLt => "cuBLASLt",
            Self::Nccl => "NCCL",
        }
    }

    /// How to get it.
    #[must_use]
    pub fn remedy(self) -> String {
        let package = match self {
            Self::Driver => {
                return "install NVIDIA's driver for this kernel (in a container: run it with the NVIDIA container toolkit)"
                    .to_owned();
            }
            Self::Nvrtc => "nvidia-cuda-nvrtc",
            Self::CublasLt => "nvidia-cublas",
            Self::Nccl => "nvidia-nccl-cu13",
        };
        format!(
            "install the CUDA toolkit's libraries, or `pip install {package}` and name the folder that then holds {} in {FOLDERS_VARIABLE}",
            self.names()[0]
        )
    }
}

/// A library that is loaded.
pub struct Found {
    /// Where it is; the bare name where only the loader knows.
    pub path: PathBuf,
    /// Its symbols.
    pub(super) library: Library,
}

/// Folders that a person may have put libraries in, whatever the loader knows.
fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os(FOLDERS_VARIABLE).unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&named)
        .filter(|p| !p.as_os_str().is_empty())
        .collect();
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        folders.extend(std::env::var_os(variable).map(|home| Path::new(&home).join("lib64")));
    }
    folders.push(PathBuf::from("/usr/local/cuda/lib64"));
    folders
}

/// Loads a library: from the folders that are named, then wherever the loader finds it.
pub fn find(kind: Kind) -> Option<Found> {
    let candidates = folders()
        .into_iter()
        .flat_map(|folder| kind.names().iter().map(move |name| folder.join(name)))
        .filter(|path| path.is_file());
    let bare = kind.names().iter().map(PathBuf::from);
    candidates.chain(bare).find_map(|path| {
        Some(Found {
            library: load(&path)?,
            path,
        })
    })
}

/// Loads one file for good. Its symbols aren't offered to others.
fn load(path: &Path) -> Option<Library> {
    const NOW: c_int = libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NODELETE;
    // SAFETY: the names are those of NVIDIA's libraries, whose initialisers may run in any thread at any time; a file
    // that isn't such a library is one that whoever runs this process put there under its name.
    unsafe { Library::open(Some(path), NOW) }.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_is_looked_for_by_the_name_that_its_packages_have() {
        assert!(Kind::Nccl.names().contains(&"libnccl.so.2"));
        for kind in KINDS {
            assert!(kind.names().iter().all(|n| n.starts_with("lib")), "{kind:?}");
            assert!(kind.remedy().len() > 30, "{kind:?}");
        }
    }
}
