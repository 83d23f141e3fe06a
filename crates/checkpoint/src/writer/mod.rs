//! The writer: takes captures of state, makes them durable in the background, says how each ended.
//!
//! ```text
//!   freeze_state() -> Capture --begin (at once)--> Ticket
//!        threads of the writer: plan files -> hash and write chunk by chunk -> sync -> sync folders -> Outcome::Durable(CheckpointPart)
//!   poll() -> outcomes                                       the worker reports them; the coordinator commits when it has all
//! ```
//!
//! In: captures ([`Held`] bytes, which don't change while they are held). Out: [`Outcome`]s. Files are written to the
//! writer's own folder inside the step's: until the coordinator has put a manifest there, nobody takes them for a
//! checkpoint.
//!
//! Invariants
//! - CK-20 A capture counts from the moment `begin` returns, and every one that was begun has exactly one outcome,
//!   whatever fails: the store, a thread, the process's patience. What fails later changes nothing about captures
//!   before or after.
//! - CK-21 Digests and files are made of the same bytes: both are read from memory that nobody may change while it is
//!   held, or the digests came with the bytes. Bytes are read once for each; nothing is copied but heads and tails
//!   that don't lie on a block.
//! - CK-22 `Durable` is said after every file's content, length and name are synced, or the object store has answered
//!   for them.
//! - CK-23 Memory is bounded: what captures hold, a buffer of 1 MiB a thread, requests in flight that share held
//!   memory.
//! - CK-24 Every wait ends: attempts by the retry budget, requests by `hang_timeout`, closing by `close_timeout`.
//!   Held bytes are let go as soon as their file is durable or given up.
//!
//! Deliberately absent: when to save, what is committed, and any knowledge of devices.

mod capture;
mod direct;
mod file;
mod files;
mod group;
mod local;
mod options;
mod queue;
mod remote;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use capture::{Capture, Held, HeldPart, Outcome, Refused, Ticket};
pub use options::{Retry, WriterOptions};

use files::{FileOps, System};
use local::LocalSink;
use remote::RemoteSink;
use worker::{Shared, Sink};

use crate::store::{Store, StoreError};

/// Writes captures to a store from threads of its own; closing or dropping it gives up what isn't durable.
pub struct Writer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Writer {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`StoreError`] when the system gives no threads.
    pub fn start(store: Arc<dyn Store>, options: WriterOptions) -> Result<Self, StoreError> {
        Self::with_files(store, options, Arc::new(System))
    }

    fn with_files(
        store: Arc<dyn Store>,
        options: WriterOptions,
        files: Arc<dyn FileOps>,
    ) -> Result<Self, StoreError> {
        let place = store.describe();
        let (sink, count): (Arc<dyn Sink>, usize) = match store.objects() {
            Some(objects) => (
                Arc::new(RemoteSink::new(store, objects, &options)?),
                options.uploads,
            ),
            None => (Arc::new(LocalSink::new(store, files, &options)), options.threads),
        };
        let mut writer = Self {
            shared: Arc::new(Shared::new(options)),
            threads: Vec::new(),
        };
        for number in 0..count.max(1) {
            let (shared, sink) = (Arc::clone(&writer.shared), Arc::clone(&sink));
            shared.alive.fetch_add(1, Relaxed);
            let thread = std::thread::Builder::new()
                .name(format!("checkpoint-{number}"))
                .spawn(move || worker::run(&shared, &*sink));
            match thread {
                Ok(thread) => writer.threads.push(thread),
                Err(error) => {
                    writer.shared.alive.fetch_sub(1, Relaxed);
                    return Err(StoreError::of_io(place, &error));
                }
            }
        }
        Ok(writer)
    }

    /// Takes a capture on and returns at once; its outcome will come from [`Writer::poll`].
    ///
    /// # Errors
    /// [`Refused::Full`] while [`WriterOptions::captures`] are unfinished (see [`Writer::wait_for_room`]),
    /// [`Refused::Closed`] when no thread is left. The capture is dropped then.
    pub fn begin(&self, capture: Capture) -> Result<Ticket, Refused> {
        let limit = self.shared.options.captures.max(1);
        self.shared.add(|queue| {
            if queue.unfinished() == 0 {
                self.shared.tick();
            }
            queue.push(capture, limit, Instant::now())
        })
    }

    /// Waits until a capture would be taken on; false when there is still no room after `patience`. Ask before
    /// freezing state: what is frozen while it waits makes updates wait.
    #[must_use]
    pub fn wait_for_room(&self, patience: Duration) -> bool {
        let limit = self.shared.options.captures.max(1);
        let room = |queue: &mut queue::Queue| (queue.unfinished() < limit).then_some(());
        self.shared.wait(patience, room).is_some()
    }

    /// Captures that have no outcome yet.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.shared.queue().unfinished()
    }

    /// What has ended since the last call, in the order in which it ended. Never waits.
    #[must_use]
    pub fn poll(&self) -> Vec<Outcome> {
        let mut queue = self.shared.queue();
        self.shared.give_up_stuck(&mut queue);
        queue.outcomes()
    }

    /// As [`Writer::poll`], but waits up to `patience` for an outcome if there is none.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> Vec<Outcome> {
        let some = |queue: &mut queue::Queue| queue.has_outcomes().then_some(());
        let _ = self.shared.wait(patience, some);
        self.poll()
    }

    /// Gives a capture up: its outcome is `Failed` at once, and its bytes are let go of (those of a file that is
    /// being written: as soon as the system has taken the chunk in hand). Nothing happens when it has its outcome
    /// already.
    pub fn abandon(&self, ticket: Ticket, why: &str) {
        self.shared.change(|queue| queue.fail(ticket, why.to_owned()));
    }

    /// Waits until every capture has its outcome, for at most `patience`; those that don't are given up. Returns all
    /// outcomes since the last [`Writer::poll`].
    #[must_use]
    pub fn finish(&self, patience: Duration) -> Vec<Outcome> {
        let idle = |queue: &mut queue::Queue| (queue.unfinished() == 0).then_some(());
        if self.shared.wait(patience, idle).is_none() {
            let why = format!(
                "it wasn't durable within the {} s given to finish",
                patience.as_secs()
            );
            self.shared.change(|queue| queue.fail_all(&why));
        }
        self.poll()
    }
}

impl Drop for Writer {
    /// Gives up what isn't durable and waits for the threads, which end after the write they are at.
    fn drop(&mut self) {
        self.shared.change(|queue| queue.close("the writer was closed"));
        let shared = &self.shared;
        let gone = |_: &mut queue::Queue| (shared.alive.load(Relaxed) == 0).then_some(());
        if self.shared.wait(shared.options.close_timeout, gone).is_none() {
            let left = shared.alive.load(Relaxed);
            tracing::error!(left, "writing threads hang in the system and are left behind");
            return;
        }
        for thread in self.threads.drain(..) {
            // It has ended; how, was told by its captures.
            let _ = thread.join();
        }
    }
}
