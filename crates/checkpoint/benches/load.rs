//! Loading a checkpoint from a folder, verified, beside plain reads of the same bytes in the same run.
//!
//! `cargo bench -p rekindle-checkpoint --bench load [-- ROUNDS [FOLDER]]`. Every round runs each case once, with the files out of
//! the page cache and in it; medians and the spread over rounds are printed, and the processor time for each GB, which other load on the
//! machine disturbs less. Plain: as many threads, each with one buffer that it fills with positioned reads of 8 MiB, nothing else. The checkpoint has 1.1 GB in one file for each layer and kind, written by one rank.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rekindle_checkpoint::format::Span;
use rekindle_checkpoint::testing::{State, assemble, plan, small_model, write_parts};
use rekindle_checkpoint::{Blocking, Checkpoint, Location, Options, commit};
use rekindle_types::{ModelConfig, StateKind};

const READ: usize = 8 << 20;
const STEP: u64 = 1;

fn model() -> ModelConfig {
    ModelConfig {
        hidden_size: 1024,
        intermediate_size: 2816,
        num_hidden_layers: 6,
        num_attention_heads: 16,
        num_key_value_heads: 8,
        head_dim: 64,
        vocab_size: 10_000,
        ..small_model()
    }
}

fn write(disk: &Blocking) -> Checkpoint {
    let state = State::random(&model(), 1);
    let run = plan(1, &[8]);
    let parts = disk
        .run(write_parts(disk.store(), &state, &run, STEP, 1))
        .unwrap();
    let manifest = assemble(&state.config, &run, STEP, &parts).unwrap();
    disk.run(commit(disk.store(), &manifest)).unwrap();
    disk.checkpoint(STEP).unwrap()
}

fn files(checkpoint: &Checkpoint) -> Vec<(PathBuf, u64)> {
    let path = |file: &str| {
        checkpoint
            .store()
            .local_path(&format!("step-00000001/{file}"))
            .unwrap()
    };
    checkpoint
        .manifest()
        .files
        .iter()
        .map(|file| (path(&file.path), file.bytes))
        .collect()
}

fn forget(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    // SAFETY: a plain system call on a descriptor that is open; it only gives advice.
    let done = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(done, 0);
}

fn plain(files: &[(PathBuf, u64)], threads: usize) {
    let pieces: Vec<(usize, u64, usize)> = (0..files.len())
        .flat_map(|file| {
            let bytes = files[file].1;
            (0..bytes)
                .step_by(READ)
                .map(move |at| (file, at, READ.min((bytes - at) as usize)))
        })
        .collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = vec![0_u8; READ];
                while let Some(&(file, at, bytes)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let file = File::open(&files[file].0).unwrap();
                    file.read_exact_at(&mut buffer[..bytes], at).unwrap();
                }
            });
        }
    });
}

fn everything(checkpoint: &Checkpoint) -> Vec<Span> {
    let model = &checkpoint.manifest().model;
    let spans = model.layers().flat_map(|layer| {
        let numel = model.layout(layer).numel() as u64;
        StateKind::ALL.map(|kind| Span::new(layer, kind, 0..numel))
    });
    spans.collect()
}

/// Seconds of processor time of this process so far.
fn processor_time() -> f64 {
    // SAFETY: a plain structure of numbers, for which zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live structure of the right type.
    let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    assert_eq!(done, 0);
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let rounds = arguments.first().map_or(5, |rounds| rounds.parse().unwrap());
    let own = tempfile::tempdir().unwrap();
    let folder = arguments.get(1).map_or(own.path().join("bench"), PathBuf::from);
    let disk = Blocking::open(&Location::parse(folder.to_str().unwrap()).unwrap()).unwrap();
    let checkpoint = write(&disk);
    let (files, spans) = (files(&checkpoint), everything(&checkpoint));
    let bytes = checkpoint.manifest().total_bytes as f64;
    let threads = (2 * std::thread::available_parallelism().map_or(1, usize::from)).min(8);
    let mut buffers: Vec<Vec<f32>> = spans.iter().map(|span| vec![0.0; span.len() as usize]).collect();
    println!(
        "{:.0} MB, {} files, {threads} threads, {rounds} rounds; GB/s, median (lowest to highest)",
        bytes / 1e6,
        files.len()
    );
    let mut seen: Vec<(&str, Vec<f64>, Vec<f64>)> = Vec::new();
    for _ in 0..rounds {
        for cold in [true, false] {
            let name = |what: &'static [&'static str; 2]| what[usize::from(cold)];
            let mut run = |name: &'static str, work: &mut dyn FnMut()| {
                if cold {
                    files.iter().for_each(|(path, _)| forget(path));
                }
                let (start, used) = (Instant::now(), processor_time());
                work();
                let speed = bytes / start.elapsed().as_secs_f64() / 1e9;
                let cost = (processor_time() - used) / bytes * 1e9;
                match seen.iter_mut().find(|(seen, ..)| *seen == name) {
                    Some((_, speeds, costs)) => {
                        speeds.push(speed);
                        costs.push(cost);
                    }
                    None => seen.push((name, vec![speed], vec![cost])),
                }
            };
            run(
                name(&["plain reads, cached", "plain reads, from disk"]),
                &mut || plain(&files, threads),
            );
            run(
                name(&["read and verify, cached", "read and verify, from disk"]),
                &mut || {
                    assert!(checkpoint.verify(None).unwrap().is_good());
                },
            );
            run(
                name(&["load into buffers, cached", "load into buffers, from disk"]),
                &mut || {
                    let targets = spans
                        .iter()
                        .cloned()
                        .zip(buffers.iter_mut().map(Vec::as_mut_slice));
                    let mut targets: Vec<_> = targets.collect();
                    checkpoint.read_into(&mut targets, &Options::default()).unwrap();
                },
            );
        }
    }
    for (name, speeds, costs) in &mut seen {
        let (middle, cost) = (median(speeds), median(costs));
        let (lowest, highest) = (speeds[0], speeds[speeds.len() - 1]);
        println!("{name:28} {middle:6.2} ({lowest:.2} to {highest:.2}), {cost:.2} s of processor a GB");
    }
}
