//! Compiles `proto/` with protox (no protoc) to Rust code and to the descriptor set that reflection serves.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

const FILES: [&str; 6] = [
    "rekindle/v1/job.proto",
    "rekindle/v1/job_service.proto",
    "rekindle/v1/telemetry_service.proto",
    "rekindle/v1/cluster_service.proto",
    "rekindle/worker/v1/worker_service.proto",
    "rekindle/admin/v1/fault_injection_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
