//! Every kernel goes through the compiler of a GPU's machine, for real architectures: so that its assembler has seen
//! them, too.
//!
//! NVRTC comes from `scripts/nvrtc.sh`, which prints the folder for REKINDLE_CUDA_LIBRARIES. Where it is absent this
//! says so; with REKINDLE_REQUIRE_NVRTC=1 that is a failure.
#![allow(clippy::unwrap_used, clippy::panic)]

use rekindle_compute::cuda::kernels::{MODULES, PLATFORM, WIDEST_HEAD};
use rekindle_compute::cuda::nvrtc::{available, compile, compile_source, version};

const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90", "sm_100"];
const HEADS: [usize; 3] = [16, 64, WIDEST_HEAD];

/// Whether there is a compiler; it must be there where it is required.
fn here() -> bool {
    match available() {
        Ok(()) => true,
        Err(error) => {
            assert!(std::env::var_os("REKINDLE_REQUIRE_NVRTC").is_none(), "{error}");
            eprintln!("skipped: {error}");
            false
        }
    }
}

fn holds(cubin: &[u8], name: &str) -> bool {
    let symbol = [b"\0.text.", name.as_bytes(), b"\0"].concat();
    cubin.windows(symbol.len()).any(|w| w == symbol)
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    if !here() {
        return;
    }
    assert!(version().unwrap().0 >= 12);
    for module in MODULES {
        let heads = if module.per_head { &HEADS[..] } else { &[0] };
        for arch in ARCHITECTURES {
            for &head in heads {
                let cubin = compile(&module, head, arch).unwrap();
                for kernel in module.kernels {
                    assert!(
                        holds(&cubin, kernel),
                        "{kernel} isn't in {} for {arch}",
                        module.file
                    );
                }
            }
        }
    }
}

#[test]
fn the_same_source_gives_the_same_code() {
    if !here() {
        return;
    }
    let [rows, ..] = MODULES;
    assert_eq!(
        compile(&rows, 0, "sm_90").unwrap(),
        compile(&rows, 0, "sm_90").unwrap()
    );
    assert_ne!(
        compile(&rows, 0, "sm_90").unwrap(),
        compile(&rows, 0, "sm_80").unwrap()
    );
}

/// An instruction that only the assembler can refuse: what a virtual architecture would let through.
#[test]
fn what_the_assembler_refuses_is_found_with_its_line() {
    if !here() {
        return;
    }
    let source = PLATFORM.to_owned()
        + "KERNEL(32) wrong(u32 *x) { asm(\"mma.sync.nonsense.u32 %0;\" : \"=r\"(*x)); }\n";
    let error = compile_source(&source, "wrong.cu", "sm_90")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("wrong.cu for sm_90") && error.contains("ptxas"),
        "{error}"
    );
    let error = compile_source("int x = y;\n", "unknown.cu", "sm_90")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("unknown.cu(1)") && error.contains("\"y\" is undefined"),
        "{error}"
    );
}
