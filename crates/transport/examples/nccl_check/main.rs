//! Checks the real NCCL on a machine with one GPU or more, a process for each rank: meet, transfer, abort of a
//! transfer that hangs, split, shrink, grow, and the transport; each with its time.
//!
//! ```text
//! nccl_check [RANKS [MIB]]    3 ranks unless said otherwise (what needs fewer uses the first ones), transfers of 64 MiB
//! ```
//!
//! Where there are fewer devices than ranks they share them, which NCCL does from 2.30 on for two processes a device,
//! and may or may not for more. Prints a line for each step; the exit status is 1 when one failed, and 2 when NCCL or
//! a device is missing.

mod pipe;
mod steps;

use std::process::ExitCode;

use rekindle_compute::cuda::nccl::Nccl;
use rekindle_compute::cuda::survey::survey;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u32> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
    match (arguments.first().map(String::as_str), &numbers[..]) {
        (Some("rank"), &[rank, ranks, device, mebibytes]) => steps::run(rank, ranks, device, mebibytes),
        (None, _) => lead(3, 64),
        (Some(_), &[ranks]) if ranks >= 2 => lead(ranks, 64),
        (Some(_), &[ranks, mebibytes]) if ranks >= 2 => lead(ranks, mebibytes),
        _ => {
            eprintln!("usage: nccl_check [RANKS [MIB]], two ranks at least");
            ExitCode::from(2)
        }
    }
}

/// Starts the ranks and passes on what they say.
fn lead(ranks: u32, mebibytes: u32) -> ExitCode {
    let devices: Vec<i32> = survey().devices.iter().map(|device| device.ordinal).collect();
    if let Err(error) = Nccl::open(devices.first().copied().unwrap_or(0)) {
        eprintln!("DID NOT RUN: {error}");
        return ExitCode::from(2);
    }
    if devices.is_empty() {
        eprintln!("DID NOT RUN: no device can be used; `rekindle doctor` says why");
        return ExitCode::from(2);
    }
    println!("{ranks} ranks on {} device(s)", devices.len().min(ranks as usize));
    match pipe::lead(ranks, mebibytes, &devices) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
