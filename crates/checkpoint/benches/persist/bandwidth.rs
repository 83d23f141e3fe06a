//! From `begin` to durable, beside plain writes of the same bytes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rekindle_checkpoint::{HeldPart, Writer};

use super::measure::{Runs, median, spread};
use super::options::Options;
use super::state::{capture, clean, durable, hashed, local, model, state};
use super::{Error, LONG, MIB};

const GIB: f64 = (1 << 30) as f64;
/// Bytes of a plain write.
const PLAIN_CHUNK: usize = 16 << 20;

pub fn persist(options: &Options) -> Result<(), Error> {
    let rounds = options.get("rounds", 9);
    println!(
        "\n### Persisting a state: from `begin` to durable, beside plain writes of the same bytes ({rounds} rounds)\n"
    );
    println!(
        "| state | case | MB/s, median (spread) | ratio to plain O_DIRECT | processor s per GiB (spread) |"
    );
    println!("|---|---|---|---|---|");
    for (hidden, layers) in [(512, 8), (1024, 7)] {
        let model = Arc::new(model(hidden, layers));
        let parts = state(&model)?;
        let hashed = hashed(&parts)?;
        let bytes = 12.0 * model.parameters() as f64;
        let folder = options.folder()?;
        let names = [
            "plain O_DIRECT + fsync, 1 file",
            "plain buffered + fsync, 1 file",
            "writer, digests by the update",
            "writer, digests by itself",
        ];
        let mut runs = names.map(|_| Runs::default());
        let mut files = 0;
        let writer = Writer::start(local(folder.path())?, options.writer())?;
        for round in 0..=rounds {
            for (case, run) in runs.iter_mut().enumerate() {
                clean(folder.path())?;
                // The first round warms up.
                files = run.time(round > 0, || match case {
                    0 => plain(&parts, &folder.path().join("plain"), true).map(|()| files),
                    1 => plain(&parts, &folder.path().join("plain"), false).map(|()| files),
                    _ => {
                        let parts = if case == 2 { &hashed } else { &parts };
                        writer.begin(capture(&model, parts.clone(), round))?;
                        durable(writer.finish(LONG))
                    }
                })?;
            }
        }
        clean(folder.path())?;
        let base = median(&runs[0].seconds);
        for (name, run) in names.iter().zip(&runs) {
            let rates: Vec<f64> = run.seconds.iter().map(|s| bytes / 1e6 / s).collect();
            let cpu: Vec<f64> = run.cpu.iter().map(|s| s / (bytes / GIB)).collect();
            let name = if name.starts_with("writer") {
                format!("{name}, {files} files")
            } else {
                (*name).to_owned()
            };
            println!(
                "| {:.0} MiB | {name} | {} | {:.3} | {} |",
                bytes / MIB,
                spread(&rates, 0),
                base / median(&run.seconds),
                spread(&cpu, 3),
            );
        }
    }
    Ok(())
}

/// Plain writes: one new file, large chunks, one thread, synced with its folder.
pub fn plain(parts: &[HeldPart], path: &Path, direct: bool) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    if direct {
        options.custom_flags(libc::O_DIRECT);
    }
    let file = options.open(path)?;
    let total: usize = parts
        .iter()
        .map(|part| part.held.bytes().map_or(0, <[u8]>::len))
        .sum();
    // SAFETY: the descriptor is open.
    if unsafe { libc::fallocate(std::os::fd::AsRawFd::as_raw_fd(&file), 0, 0, total as i64) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let mut at = 0;
    for part in parts {
        for chunk in part.held.bytes()?.chunks(PLAIN_CHUNK) {
            file.write_all_at(chunk, at)?;
            at += chunk.len() as u64;
        }
    }
    file.sync_all()?;
    let folder = path.parent().ok_or("a file in a folder")?;
    Ok(File::open(folder)?.sync_all()?)
}
