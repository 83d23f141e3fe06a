//! `rekindle doctor` on machines that don't exist: drivers made of a few lines of C, found like real ones.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Finished, finish, rekindle};
use serde_json::Value;

/// A driver with two devices, the second one older than the kernels want.
const DRIVER: &str = r#"
#include <string.h>
#include <stddef.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *v) { *v = 13010; return 0; }
int cuDeviceGetCount(int *n) { *n = 2; return 0; }
int cuDeviceGet(int *d, int n) { *d = 40 + n; return n < 2 ? 0 : 101; }
int NAME(char *t, int len, int d) { strncpy(t, d == 40 ? "Stub A" : "Stub B", len); return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = 80ull << 30; return 0; }
int cuDeviceGetAttribute(int *v, int which, int d) {
    *v = which == 16 ? 132 : which == 75 ? (d == 40 ? 9 : 7) : which == 76 ? (d == 40 ? 0 : 5) : -1;
    return 0;
}
static int pushed;
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = &pushed; return d == 40 ? 0 : 2; }
int cuDevicePrimaryCtxRelease_v2(int d) { return 0; }
int cuCtxPushCurrent_v2(void *c) { pushed = c == &pushed; return pushed ? 0 : 201; }
int cuCtxPopCurrent_v2(void **c) { pushed = 0; return 0; }
int cuMemGetInfo_v2(size_t *f, size_t *t) { *f = 79ull << 30; *t = 80ull << 30; return pushed ? 0 : 201; }
"#;

fn library(folder: &Path, name: &str, source: &str, defines: &[&str]) {
    let file = folder.join(format!("{name}.c"));
    std::fs::write(&file, source).unwrap();
    let made = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".to_owned()))
        .args(["-shared", "-fPIC", "-o"])
        .arg(folder.join(name))
        .arg(&file)
        .args(defines)
        .output()
        .unwrap_or_else(|e| panic!("the C compiler that Rust links with can't be run as cc: {e}; set CC"));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// The command on a machine that has what is in `folder`.
fn doctor(folder: &Path, args: &[&str]) -> Finished {
    let mut command = rekindle(&["doctor"]);
    command
        .args(args)
        .env("REKINDLE_CUDA_LIBRARIES", folder)
        .env_remove("CUDA_HOME")
        .env_remove("CUDA_PATH");
    let called = finish(command);
    assert_eq!(called.code, 0, "{}", called.stderr);
    assert_eq!(called.stderr, "", "nothing went wrong");
    called
}

fn json(folder: &Path) -> Value {
    serde_json::from_str(&doctor(folder, &["-o", "json"]).stdout).unwrap()
}

fn troubles(report: &Value) -> String {
    report["troubles"].to_string()
}

/// Whatever this machine has: each library is there with a version, or a trouble says how to get it.
#[test]
fn this_machine_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let report = json(folder.path());
    let libraries = report["libraries"].as_array().unwrap();
    assert_eq!(libraries.len(), 4);
    for library in libraries {
        let name = library["name"].as_str().unwrap();
        let told = report["troubles"]
            .as_array()
            .unwrap()
            .iter()
            .any(|t| t["what"].as_str().unwrap().contains(name) && t["fix"].as_str().unwrap().len() > 20);
        assert!(library["version"].is_string() || told, "{name}: {report}");
    }
    assert!(report["cpu"]["threads"].as_u64().unwrap() > 0);
    let device = report["trains_on"].as_str().unwrap();
    assert!(device == "cpu" || device.starts_with("cuda:"), "{report}");
    let table = doctor(folder.path(), &[]).stdout;
    assert!(
        table.contains(&format!("Trainers compute on {device} unless")) && table.contains("NCCL"),
        "{table}"
    );
}

#[test]
fn devices_are_listed_with_their_memory_and_what_is_wrong_with_them() {
    let folder = tempfile::tempdir().unwrap();
    library(
        folder.path(),
        "libcuda.so.1",
        DRIVER,
        &["-DINIT=0", "-DNAME=cuDeviceGetName"],
    );
    let nccl = "int ncclGetVersion(int *v) { *v = 22703; return 0; }\n";
    library(folder.path(), "libnccl.so.2", nccl, &[]);
    let lt = "#include <stddef.h>\nsize_t cublasLtGetVersion(void) { return 131000; }\n";
    library(folder.path(), "libcublasLt.so.13", lt, &[]);
    let report = json(folder.path());
    let [first, second] = &report["devices"].as_array().unwrap()[..] else {
        panic!("{report}");
    };
    assert_eq!(first["name"], "Stub A");
    assert_eq!(first["compute_capability"], "9.0");
    assert_eq!(first["multiprocessors"], 132);
    assert_eq!(first["memory_bytes"], 80u64 << 30);
    assert_eq!(first["free_bytes"], 79u64 << 30);
    assert!(second["free_bytes"].is_null(), "it gives no context");
    let versions: Vec<_> = report["libraries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| &l["version"])
        .collect();
    assert_eq!(
        (versions[0], versions[2], versions[3]),
        (&"13.1".into(), &"13.10.0".into(), &"2.27.3".into())
    );
    let told = troubles(&report);
    assert!(
        told.contains("compute capability 7.5") && told.contains("older than 2.30"),
        "{told}"
    );
    let table = doctor(folder.path(), &[]).stdout;
    assert!(
        table.contains("cuda:0") && table.contains("sm_90") && table.contains("79.0 GiB free"),
        "{table}"
    );
}

#[test]
fn a_driver_without_a_device_says_why() {
    let folder = tempfile::tempdir().unwrap();
    library(
        folder.path(),
        "libcuda.so.1",
        DRIVER,
        &["-DINIT=100", "-DNAME=cuDeviceGetName"],
    );
    let report = json(folder.path());
    assert!(report["devices"].as_array().unwrap().is_empty());
    assert!(
        troubles(&report).contains("the driver sees no device"),
        "{report}"
    );
}

/// A driver that lacks a function, and one with a result code that nobody knows: told, never a panic.
#[test]
fn a_driver_that_is_not_what_it_should_be_is_told() {
    let folder = tempfile::tempdir().unwrap();
    library(
        folder.path(),
        "libcuda.so.1",
        DRIVER,
        &["-DINIT=0", "-DNAME=cuDeviceSing"],
    );
    assert!(troubles(&json(folder.path())).contains("has no cuDeviceGetName"));
    library(
        folder.path(),
        "libcuda.so.1",
        DRIVER,
        &["-DINIT=123456", "-DNAME=cuDeviceGetName"],
    );
    assert!(troubles(&json(folder.path())).contains("cuInit gave 123456"));
}

#[test]
fn a_file_that_is_no_library_counts_as_none() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("libnccl.so.2"), "not a library").unwrap();
    let report = json(folder.path());
    assert!(
        !report["libraries"][3]["path"]
            .to_string()
            .contains(folder.path().to_str().unwrap())
    );
}
