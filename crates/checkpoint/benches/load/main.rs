//! Loading a checkpoint from a folder, verified, beside plain reads of the same bytes in the same run.
//!
//! `cargo bench -p rekindle-checkpoint --bench load [-- ROUNDS [FOLDER]]`. Markdown comes out. What is loaded: 1.1 GB, written by one layout of
//! ranks and read by another; each reading rank in turn, a shape's figure is that of all its ranks. Every round runs each case once,
//! in a changing order, with the files out of the page cache and in it; medians and the spread over rounds are printed, and the
//! processor time for each GB, which other load on the machine disturbs less.
//!
//! Plain reads: as many threads, positioned reads of at most 8 MiB of exactly the bytes wanted, nothing else. Once
//! into one buffer a thread, once into memory for all of them, which is what loading has to do.

#[path = "../persist/measure.rs"]
#[allow(dead_code)] // Part of it.
mod measure;
mod plain;
mod shapes;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rekindle_checkpoint::{Blocking, Checkpoint, Location, Options};

use measure::{Runs, median, spread};
use plain::Plain;
use shapes::{Reader, SHAPES, STEP, Shape};

type Error = Box<dyn std::error::Error>;

/// Takes a file out of the page cache.
fn forget(path: &Path) -> Result<(), Error> {
    let file = File::open(path)?;
    file.sync_all()?;
    // SAFETY: a plain system call on a descriptor that is open; it only gives advice.
    let done = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if done != 0 {
        return Err(std::io::Error::from_raw_os_error(done).into());
    }
    Ok(())
}

const CASES: [&str; 4] = [
    "plain reads, a buffer a thread",
    "plain reads, to memory",
    "load, verified",
    "read and verify all of it",
];

/// What a case does for one rank; returns the bytes that were read.
fn work(case: usize, checkpoint: &Checkpoint, rank: &mut Reader, threads: usize) -> Result<u64, Error> {
    match case {
        0 | 1 => {
            let plain = Plain::of(checkpoint, &rank.spans)?;
            plain.read(threads, (case == 1).then_some(&mut rank.memory))?;
            Ok(plain.bytes())
        }
        2 => {
            let mut targets = rank.targets();
            Ok(checkpoint
                .read_into(&mut targets, &Options::default())?
                .bytes_read)
        }
        _ => {
            let report = checkpoint.verify(None)?;
            if !report.is_good() {
                return Err("the checkpoint is damaged".into());
            }
            Ok(checkpoint.manifest().total_bytes)
        }
    }
}

fn paths(checkpoint: &Checkpoint) -> Result<Vec<PathBuf>, Error> {
    let path = |file: &str| {
        let key = format!("step-{STEP:08}/{file}");
        checkpoint.store().local_path(&key).ok_or("not a folder")
    };
    let files = checkpoint.manifest().files.iter();
    Ok(files.map(|file| path(&file.path)).collect::<Result<_, _>>()?)
}

/// One round of all cases: seconds go to `runs`, bytes that were read to `read`.
fn round(
    number: usize,
    cold: bool,
    checkpoint: &Checkpoint,
    readers: &mut [Reader],
    (runs, read): (&mut [Runs], &mut [u64]),
    threads: usize,
) -> Result<(), Error> {
    for n in 0..runs.len() {
        let case = (n + number) % runs.len();
        let (mut seconds, mut cpu) = (0.0, 0.0);
        read[case] = 0;
        for rank in readers.iter_mut() {
            if cold {
                paths(checkpoint)?.iter().try_for_each(|path| forget(path))?;
            }
            let mut run = Runs::default();
            read[case] += run.time(true, || work(case, checkpoint, rank, threads))?;
            seconds += run.seconds[0];
            cpu += run.cpu[0];
        }
        runs[case].seconds.push(seconds);
        runs[case].cpu.push(cpu);
    }
    Ok(())
}

fn shape(shape: &Shape, disk: &Blocking, rounds: usize, threads: usize) -> Result<(), Error> {
    let checkpoint = shape.write(disk)?;
    let mut readers = shape.readers();
    let wanted: usize = readers.iter().map(|rank| 4 * rank.memory.len()).sum();
    let cases = &CASES[..if shape.whole { 4 } else { 3 }];
    for cold in [true, false] {
        let mut runs: Vec<Runs> = cases.iter().map(|_| Runs::default()).collect();
        let mut read = vec![0; cases.len()];
        for number in 0..rounds {
            let into = (runs.as_mut_slice(), read.as_mut_slice());
            round(number, cold, &checkpoint, &mut readers, into, threads)?;
        }
        for (n, case) in cases.iter().enumerate() {
            let of = |base: usize| -> Vec<f64> {
                let pairs = runs[n].seconds.iter().zip(&runs[base].seconds);
                pairs.map(|(seconds, base)| seconds / base).collect()
            };
            let gb = wanted as f64 / 1e9;
            let rates: Vec<f64> = runs[n].seconds.iter().map(|seconds| gb / seconds).collect();
            println!(
                "| {} | {} | {case} | {} | {} | {} | {:.3} | {:.2} |",
                shape.name,
                if cold { "disk" } else { "cache" },
                spread(&rates, 2),
                spread(&of(0), 2),
                spread(&of(1), 2),
                read[n] as f64 / wanted as f64,
                median(&runs[n].cpu) / gb,
            );
        }
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let rounds = arguments.first().map_or(Ok(5), |rounds| rounds.parse())?;
    let own = tempfile::tempdir()?;
    let folder = arguments.get(1).map_or(own.path().join("bench"), PathBuf::from);
    let threads = (2 * std::thread::available_parallelism().map_or(1, usize::from)).min(8);
    println!("{rounds} rounds, {threads} threads\n");
    println!(
        "| shape | from | case | GB/s | time to plain, a buffer | to plain, memory | bytes read / wanted | processor s a GB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (number, layout) in SHAPES.iter().enumerate() {
        let folder = folder.join(number.to_string());
        let place = folder.to_str().ok_or("the folder's name isn't Unicode")?;
        shape(
            layout,
            &Blocking::open(&Location::parse(place)?)?,
            rounds,
            threads,
        )?;
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}
