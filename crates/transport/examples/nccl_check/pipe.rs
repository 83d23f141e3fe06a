//! How the ranks talk: each says a line, and when all have, everybody gets all lines. So a round is a barrier, too.

use std::io::{BufRead, BufReader, Error, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// The longest that a rank may be silent.
const SILENCE: Duration = Duration::from_secs(120);
const BETWEEN: char = '\u{1f}';

/// Says something as a rank, and hears what all said, by rank.
pub fn round(word: &str) -> Vec<String> {
    println!("{}", word.replace(['\n', BETWEEN], " "));
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(1..) => line
            .trim_end_matches('\n')
            .split(BETWEEN)
            .map(str::to_owned)
            .collect(),
        // The leader is gone.
        _ => std::process::exit(3),
    }
}

struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Starts the ranks, passes rounds on until all have ended, and prints what rank 0 says about a step. Whether none of
/// those failed.
pub fn lead(ranks: u32, mebibytes: u32, devices: &[i32]) -> Result<bool, Error> {
    let mut children = Ranks(Vec::new());
    let mut lines = Vec::new();
    for rank in 0..ranks {
        let device = devices[rank as usize % devices.len()];
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("rank");
        command.args([rank, ranks].map(|n| n.to_string()));
        command.args([device.to_string(), mebibytes.to_string()]);
        if devices.len() < ranks as usize {
            // Few blocks each: those of ranks that share a device must fit on it together.
            command.envs([
                ("NCCL_MULTI_RANK_GPU_ENABLE", "1"),
                ("NCCL_NVLS_ENABLE", "0"),
                ("NCCL_MAX_CTAS", "4"),
            ]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        lines.push(lines_of(&mut child)?);
        children.0.push(child);
    }
    let mut good = true;
    loop {
        let mut words = Vec::new();
        for (rank, from) in lines.iter().enumerate() {
            match from.recv_timeout(SILENCE) {
                Ok(word) => words.push(word),
                Err(RecvTimeoutError::Disconnected) if words.is_empty() && rank == 0 => return Ok(good),
                Err(error) => return Err(Error::other(format!("rank {rank} is silent: {error}"))),
            }
        }
        for line in words.iter().filter_map(|word| word.strip_prefix("print ")) {
            good &= !line.starts_with("FAILED");
            println!("{line}");
        }
        let all = words.join(&BETWEEN.to_string()) + "\n";
        for child in &mut children.0 {
            let input = child.stdin.as_mut().ok_or_else(|| Error::other("no pipe"))?;
            input.write_all(all.as_bytes())?;
        }
    }
}

fn lines_of(child: &mut Child) -> Result<Receiver<String>, Error> {
    let output = child.stdout.take().ok_or_else(|| Error::other("no pipe"))?;
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    Ok(told)
}
