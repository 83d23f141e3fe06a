//! Builds the kernels as C++ on the emulated platform (`tests/emulator/`) and launches them in a process of their own.

use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rekindle_compute::cuda::kernels::Module;

/// Whether there is a compiler. Where there is none the tests say so and test nothing, unless `REKINDLE_REQUIRE_CXX`
/// is set.
pub fn has_compiler() -> bool {
    let there = Command::new(compiler()).arg("--version").output().is_ok();
    let required = std::env::var_os("REKINDLE_REQUIRE_CXX").is_some();
    assert!(
        there || !required,
        "the kernels' tests need a C++ compiler; install one or set CXX"
    );
    if !there {
        eprintln!("note: no C++ compiler (set CXX): the arithmetic of the CUDA kernels is not tested");
    }
    there
}

/// Leaves a test that needs the compiler where there is none.
macro_rules! needs_compiler {
    () => {
        if !crate::emulator::has_compiler() {
            return;
        }
    };
}

/// The C++ compiler: `CXX`, or `c++`.
fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}

/// Kernels of one module, built.
pub struct Emulator {
    _folder: tempfile::TempDir,
    program: PathBuf,
}

impl Emulator {
    /// Builds `module`; `head_dim` as for [`Module::source`].
    pub fn build(module: &Module, head_dim: usize) -> Self {
        Self::patched(module, head_dim, &[])
    }

    /// Builds `module` with texts replaced, each of which must be there.
    pub fn patched(module: &Module, head_dim: usize, patches: &[(&str, &str)]) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator");
        let include = |name: &str| format!("#include \"{}\"\n", here.join(name).display());
        let mut source = module.source(&include("platform.hpp"), head_dim);
        for (from, to) in patches {
            assert!(
                source.contains(from),
                "{} has no {from:?} to put a defect in",
                module.file
            );
            source = source.replacen(from, to, 1);
        }
        source.push_str(&format!("\n{}", include("serve.hpp")));
        source.push_str("static const emu::Entry entries[] = {\n");
        for name in module.kernels {
            source.push_str(&format!("    {{\"{name}\", [] {{ emu::prepare({name}); }}}},\n"));
        }
        source
            .push_str("};\nint main() { return emu::serve(entries, sizeof entries / sizeof entries[0]); }\n");
        let folder = tempfile::tempdir().unwrap();
        let (file, program) = (folder.path().join("kernels.cpp"), folder.path().join("kernels"));
        std::fs::write(&file, source).unwrap();
        let output = Command::new(compiler())
            .args([
                "-std=c++17",
                "-O2",
                "-g1",
                "-ffp-contract=off",
                "-fno-strict-aliasing",
            ])
            .args([
                "-U_FORTIFY_SOURCE",
                "-Wall",
                "-Wno-unknown-pragmas",
                "-Wno-unused-function",
                "-Wno-clobbered",
            ])
            .arg("-o")
            .arg(&program)
            .arg(&file)
            .output()
            .unwrap_or_else(|e| {
                panic!(
                    "the kernels' tests need a C++ compiler: {:?} can't be run ({e}); install one or set CXX",
                    compiler()
                )
            });
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.is_empty(),
            "{}: {text}",
            module.file
        );
        Self {
            _folder: folder,
            program,
        }
    }

    /// A process to launch in.
    pub fn start(&self) -> Session {
        let mut child = Command::new(&self.program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = BufWriter::new(child.stdin.take().unwrap());
        let from = BufReader::new(child.stdout.take().unwrap());
        Session {
            child,
            to: Some(to),
            from,
        }
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone)]
pub enum Arg {
    /// A value's bytes.
    Value(Vec<u8>),
    /// A buffer `skip` bytes after a multiple of 16.
    Buffer { skip: u32, bytes: Vec<u8> },
    /// The buffer of an earlier argument.
    Same(u32),
    /// No buffer.
    Null,
}

/// A launch.
#[derive(Debug, Clone)]
pub struct Launch {
    pub kernel: String,
    pub grid: [usize; 3],
    pub threads: usize,
    /// Bytes of launch memory.
    pub memory: usize,
    pub args: Vec<Arg>,
}

/// Orders in which blocks, and threads between barriers, are run: the result must be the same in all.
pub const ORDERS: [u32; 4] = [0, 1, 7, 99];

/// A running emulator. It ends with the first launch that fails.
pub struct Session {
    child: Child,
    to: Option<BufWriter<std::process::ChildStdin>>,
    from: BufReader<std::process::ChildStdout>,
}

impl Session {
    /// The buffers after the launch, or what was wrong.
    pub fn launch(&mut self, launch: &Launch, order: u32) -> Result<Vec<Vec<u8>>, String> {
        let mut bytes = Vec::new();
        let mut put = |n: usize| bytes.extend_from_slice(&u32::try_from(n).unwrap().to_le_bytes());
        put(launch.kernel.len());
        bytes.extend_from_slice(launch.kernel.as_bytes());
        for n in launch.grid.iter().chain([
            &launch.threads,
            &launch.memory,
            &(order as usize),
            &launch.args.len(),
        ]) {
            bytes.extend_from_slice(&u32::try_from(*n).unwrap().to_le_bytes());
        }
        for arg in &launch.args {
            let (head, body): (Vec<u32>, &[u8]) = match arg {
                Arg::Value(value) => (vec![0, value.len() as u32], value),
                Arg::Buffer { skip, bytes } => (vec![1, *skip, bytes.len() as u32], bytes),
                Arg::Same(n) => (vec![2, *n, 0], &[]),
                Arg::Null => (vec![3], &[]),
            };
            bytes.extend(head.iter().flat_map(|n| n.to_le_bytes()));
            bytes.extend_from_slice(body);
        }
        let to = self.to.as_mut().unwrap();
        to.write_all(&bytes)
            .and_then(|()| to.flush())
            .map_err(|e| e.to_string())?;
        let mut bad = [0u8];
        self.from
            .read_exact(&mut bad)
            .map_err(|e| format!("the emulator ended: {e}"))?;
        if bad[0] != 0 {
            let mut text = String::new();
            self.from.read_to_string(&mut text).map_err(|e| e.to_string())?;
            return Err(text.get(4..).unwrap_or_default().to_owned());
        }
        let buffers = launch.args.iter().filter_map(|arg| match arg {
            Arg::Buffer { bytes, .. } => Some(bytes.len()),
            _ => None,
        });
        buffers
            .map(|len| {
                let mut bytes = vec![0; len];
                self.from.read_exact(&mut bytes).map_err(|e| e.to_string())?;
                Ok(bytes)
            })
            .collect()
    }

    /// The buffers after the launch, which must be the same in every order of threads and blocks.
    pub fn run(&mut self, launch: &Launch) -> Result<Vec<Vec<u8>>, String> {
        let first = self.launch(launch, ORDERS[0])?;
        for order in &ORDERS[1..] {
            if self.launch(launch, *order)? != first {
                return Err(format!(
                    "{}: the order of threads shows (order {order})",
                    launch.kernel
                ));
            }
        }
        Ok(first)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.to.take());
        let _ = self.child.wait();
    }
}
