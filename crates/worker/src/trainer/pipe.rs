//! The trainer's line to its worker: JSON lines on stdin and stdout.
//!
//! Invariant
//! - WK-3 A trainer never outlives its worker: the end of stdin, like `Stop`, ends the process at once. So does
//!   `Halt` where there is no epoch to give up yet.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rekindle_worker_core::trainer_messages::{FromTrainer, MAX_LINE, ToTrainer};

use super::TrainerError;
use super::context::SharedTransport;

/// Messages from the worker that the trainer hasn't looked at yet; there are two at most (Begin or Edit, Connect).
const QUEUE: usize = 8;

/// What `Halt` means now.
enum Epoch {
    /// It isn't at its steps: the process ends.
    Begins,
    /// Communication is aborted, by which the epoch ends.
    Runs(SharedTransport),
    /// There is nothing to give up.
    Over,
}

/// Both directions of the line.
pub struct Pipe {
    epoch: Arc<Mutex<Epoch>>,
    incoming: Receiver<Result<ToTrainer, String>>,
    save: Arc<AtomicBool>,
    outgoing: Arc<Mutex<std::io::Stdout>>,
}

impl Pipe {
    /// Starts to listen to stdin on a thread of its own.
    ///
    /// # Errors
    /// The thread can't be started.
    pub fn open() -> Result<Self, TrainerError> {
        let (sender, incoming) = sync_channel(QUEUE);
        let save = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&save);
        let epoch = Arc::new(Mutex::new(Epoch::Begins));
        let now = Arc::clone(&epoch);
        std::thread::Builder::new()
            .name("from-worker".to_owned())
            .spawn(move || {
                let mut input = BufReader::new(std::io::stdin());
                loop {
                    match read_line(&mut input) {
                        Ok(None) => leave("the worker is gone"),
                        Ok(Some(ToTrainer::Stop)) => leave("told to stop"),
                        Ok(Some(ToTrainer::Save)) => asked.store(true, Ordering::Relaxed),
                        Ok(Some(ToTrainer::Halt)) => halt(&now),
                        Ok(Some(message)) => {
                            if matches!(message, ToTrainer::Edit { .. }) {
                                asked.store(false, Ordering::Relaxed);
                                *lock(&now) = Epoch::Begins;
                            }
                            if sender.send(Ok(message)).is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            let _ = sender.send(Err(error.to_string()));
                            return;
                        }
                    }
                }
            })?;
        Ok(Self {
            epoch,
            incoming,
            save,
            outgoing: Arc::new(Mutex::new(std::io::stdout())),
        })
    }

    /// From now on `Halt` ends this epoch by aborting its communication.
    pub fn halts(&self, transport: &SharedTransport) {
        *lock(&self.epoch) = Epoch::Runs(Arc::clone(transport));
    }

    /// This epoch is through or given up: `Halt` means nothing any more.
    pub fn over(&self) {
        *lock(&self.epoch) = Epoch::Over;
    }

    /// Whether the state after the step in flight is wanted to be saved; asked once, said once.
    #[must_use]
    pub fn take_save(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }

    /// The worker's next message but `Save`.
    ///
    /// # Errors
    /// [`TrainerError::Protocol`] when none comes in time or it can't be read.
    pub fn next(&self, wait: Duration) -> Result<ToTrainer, TrainerError> {
        match self.incoming.recv_timeout(wait) {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(what)) => Err(TrainerError::Protocol { what }),
            Err(RecvTimeoutError::Timeout) => {
                let what = format!("the worker said nothing for {} s", wait.as_secs());
                Err(TrainerError::Protocol { what })
            }
            Err(RecvTimeoutError::Disconnected) => Err(TrainerError::Protocol {
                what: "the line from the worker is closed".to_owned(),
            }),
        }
    }

    /// Tells the worker something.
    ///
    /// # Errors
    /// [`TrainerError::Pipe`] when the worker no longer listens.
    pub fn tell(&self, message: &FromTrainer) -> Result<(), TrainerError> {
        write(&self.outgoing, message)
    }

    /// The same for another thread.
    pub fn teller(&self) -> impl Fn(&FromTrainer) -> Result<(), TrainerError> + Send + use<> {
        let outgoing = Arc::clone(&self.outgoing);
        move |message| write(&outgoing, message)
    }
}

fn write(outgoing: &Mutex<std::io::Stdout>, message: &FromTrainer) -> Result<(), TrainerError> {
    let mut line = serde_json::to_vec(message).map_err(std::io::Error::from)?;
    line.push(b'\n');
    let mut out = outgoing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    out.write_all(&line)?;
    Ok(out.flush()?)
}

fn lock(epoch: &Mutex<Epoch>) -> std::sync::MutexGuard<'_, Epoch> {
    epoch.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn halt(epoch: &Mutex<Epoch>) {
    match &*lock(epoch) {
        Epoch::Begins => leave("told to halt before its first step"),
        Epoch::Runs(transport) => transport.abort("told to halt"),
        Epoch::Over => {}
    }
}

fn leave(why: &str) -> ! {
    tracing::info!(why, "leaving");
    std::process::exit(0)
}

/// One message, or none at the end of input.
fn read_line(input: &mut impl BufRead) -> std::io::Result<Option<ToTrainer>> {
    let mut line = Vec::new();
    let bytes = input
        .by_ref()
        .take(MAX_LINE as u64 + 1)
        .read_until(b'\n', &mut line)?;
    if bytes == 0 {
        return Ok(None);
    }
    if bytes > MAX_LINE {
        return Err(std::io::Error::other(format!(
            "a line from the worker is longer than {MAX_LINE} bytes"
        )));
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_checked() {
        let mut good: &[u8] = b"\"stop\"\n";
        assert!(matches!(read_line(&mut good), Ok(Some(ToTrainer::Stop))));
        assert!(matches!(read_line(&mut good), Ok(None)));
        let mut bad: &[u8] = b"{\"x\":1}\n";
        assert!(read_line(&mut bad).is_err());
        let long = vec![b'a'; MAX_LINE + 10];
        assert!(
            read_line(&mut long.as_slice())
                .unwrap_err()
                .to_string()
                .contains("longer")
        );
    }
}
