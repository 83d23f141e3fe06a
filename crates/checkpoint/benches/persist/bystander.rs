//! Somebody who writes as many bytes as a save, the same way, and has nothing to do with the training: what the
//! disk's work alone takes from a step on this machine. No saving to that disk can take less.

use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use rekindle_checkpoint::HeldPart;

use super::Error;
use super::bandwidth::plain;

/// A thread that writes when it is told to.
pub struct Bystander {
    orders: SyncSender<()>,
    thread: JoinHandle<Result<(), String>>,
}

impl Bystander {
    /// One that writes `parts` to a new file below `folder` each time, past the page cache.
    pub fn start(parts: Vec<HeldPart>, folder: &Path) -> Result<Self, Error> {
        let folder = folder.to_owned();
        let (orders, next) = sync_channel(1);
        let write = move || -> Result<(), String> {
            for (number, ()) in next.iter().enumerate() {
                let path = folder.join(format!("plain-{number}"));
                plain(&parts, &path, true).map_err(|e| e.to_string())?;
            }
            Ok(())
        };
        let thread = std::thread::Builder::new()
            .name("bystander".to_owned())
            .spawn(write)?;
        Ok(Self { orders, thread })
    }

    /// Begins to write once more; waits while more than one is due.
    pub fn write(&self) -> Result<(), Error> {
        self.orders.send(()).map_err(|_| "it has ended".into())
    }

    /// Waits for what is due.
    pub fn finish(self) -> Result<(), Error> {
        drop(self.orders);
        let ended = self
            .thread
            .join()
            .map_err(|_| "the thread that writes panicked")?;
        Ok(ended?)
    }
}
