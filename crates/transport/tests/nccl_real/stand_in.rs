//! Runs the bindings over libraries in C that stand in for CUDA's driver and NCCL.
//!
//! They are compiled with `cc`; where there is none these tests say so, and fail where REKINDLE_REQUIRE_CXX is set.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nccl_real/stand_in.c");
const BYTES: u64 = 64 << 30;

/// A folder with both libraries, and the memory of their devices.
struct StandIns {
    folder: tempfile::TempDir,
    memory: tempfile::NamedTempFile,
}

impl StandIns {
    fn compile() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        for (name, define) in [("libcuda.so.1", "-DDRIVER"), ("libnccl.so.2", "-DNCCL")] {
            let compiled = Command::new("cc")
                .args(["-shared", "-fPIC", "-O1", "-Wall", define])
                .arg(format!("-Wl,-soname,{name}"))
                .arg("-o")
                .arg(folder.path().join(name))
                .arg(SOURCE)
                .output();
            match compiled {
                Ok(output) => assert!(
                    output.status.success(),
                    "{}",
                    String::from_utf8_lossy(&output.stderr)
                ),
                Err(error) => {
                    assert!(std::env::var_os("REKINDLE_REQUIRE_CXX").is_none(), "cc: {error}");
                    eprintln!("DID NOT RUN: no C compiler: {error}");
                    return None;
                }
            }
        }
        let memory = tempfile::NamedTempFile::new().unwrap();
        // Sparse: only what is touched takes room.
        memory.as_file().set_len(BYTES).unwrap();
        Some(Self { folder, memory })
    }

    /// A program that finds them instead of what the machine has.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("REKINDLE_CUDA_LIBRARIES", self.folder.path())
            .env("LD_LIBRARY_PATH", self.folder.path())
            .env("STAND_IN_MEMORY", self.memory.path())
            .env("REKINDLE_REQUIRE_NCCL", "1");
        command
    }

    /// Runs it; what it printed.
    fn run(&self, mut command: Command) -> String {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("DID NOT RUN"), "{text}");
        let mut violations = [0; 4];
        self.memory.as_file().read_exact_at(&mut violations, 0).unwrap();
        assert_eq!(u32::from_le_bytes(violations), 0, "{text}");
        text.into_owned()
    }
}

#[test]
fn the_bindings_conform_over_stand_ins() {
    let Some(stand_ins) = StandIns::compile() else {
        return;
    };
    let mut command = stand_ins.command(&std::env::current_exe().unwrap());
    command.args(["--exact", "the_real_one_conforms", "--nocapture"]);
    let said = stand_ins.run(command);
    assert!(
        said.contains("integer_overflow_reaches_everybody") && said.contains("1 passed"),
        "{said}"
    );
}

/// Where Cargo puts examples: beside the folder of the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/nccl_check")
}

/// A process for each rank.
#[test]
fn the_check_for_a_machine_with_a_gpu_passes_over_stand_ins() {
    let Some(stand_ins) = StandIns::compile() else {
        return;
    };
    if !example().exists() {
        assert!(
            std::env::var_os("REKINDLE_REQUIRE_CXX").is_none(),
            "{:?}",
            example()
        );
        return eprintln!(
            "DID NOT RUN: {:?} isn't built; `cargo test` without `--test` builds it",
            example()
        );
    }
    let mut command = stand_ins.command(&example());
    command.args(["3", "2"]);
    let said = stand_ins.run(command);
    let steps = [
        "meet",
        "transfer",
        "abort",
        "split",
        "shrink",
        "shrink with",
        "grow",
        "transport",
    ];
    for step in steps {
        assert!(
            said.lines()
                .any(|line| line.starts_with(&format!("ok      {step}"))),
            "{step}: {said}"
        );
    }
}
