//! A small disk for tests that fill it: a tmpfs, which only root may mount. Elsewhere that is said and the test left
//! out; with `REKINDLE_REQUIRE_TMPFS=1` it fails.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The disk, taken away when it is dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one over a folder.
    pub fn mount(at: &Path, kib: usize) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]);
        let why = match mount.arg(at).output() {
            Ok(done) if done.status.success() => return Some(Self(at.to_path_buf())),
            Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let required = std::env::var("REKINDLE_REQUIRE_TMPFS").is_ok_and(|v| v == "1");
        assert!(
            !required,
            "no tmpfs, which REKINDLE_REQUIRE_TMPFS asks for: {why}"
        );
        println!("note: no tmpfs ({why}); the full disk is left out");
        None
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Writes until there is no room left.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.ballast()).expect("a file");
        while file.write_all(&[0; 1 << 12]).is_ok() {}
    }

    /// Ends that.
    pub fn make_room(&self) {
        std::fs::remove_file(self.ballast()).expect("the disk was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
