//! The captures that aren't finished, and who does what next.
//!
//! ```text
//!   push -> [planned into files] -> files handed out in order, one a thread -> [folders synced] -> Outcome::Durable
//!                     an error, a panic, abandon, close -> Outcome::Failed at once; files in hand are given up, then everything is removed
//! ```
//!
//! In: captures, what threads report. Out: tasks for threads, outcomes for the caller. No clock and no input or
//! output here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rekindle_types::{CheckpointPart, FileEntry, RankId};
use tokio::sync::watch;

use super::capture::{Capture, Outcome, Refused, Ticket};
use super::file::{FileTask, key_of};

/// What everybody who works on a capture knows of it.
pub(super) struct Job {
    pub ticket: Ticket,
    pub rank: RankId,
    began: Instant,
    cancelled: watch::Sender<bool>,
    failures: AtomicU32,
    /// When the first of the failures that no success came after was seen.
    failing_since: Mutex<Option<Instant>>,
}

impl Job {
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// For those who wait for something else at the same time.
    pub fn cancellation(&self) -> watch::Receiver<bool> {
        self.cancelled.subscribe()
    }

    /// Counts a failure; returns how long nothing has succeeded.
    pub fn failed(&self, now: Instant) -> Duration {
        self.failures.fetch_add(1, Relaxed);
        let mut since = self.failing_since.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(*since.get_or_insert(now))
    }

    pub fn succeeded(&self) {
        *self.failing_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// One piece of work.
pub(super) enum Task {
    /// Cut a capture into files.
    Plan(Arc<Job>, Capture),
    /// Write a file.
    Write(Arc<Job>, FileTask),
    /// Make the names of these files durable: all of the capture.
    Seal(Arc<Job>, Vec<String>),
    /// Remove these files, of a capture that failed.
    Discard(Vec<String>),
}

enum Todo {
    Plan(Capture),
    Planning,
    Files(VecDeque<FileTask>),
}

struct Entry {
    job: Arc<Job>,
    todo: Todo,
    /// Files that threads have in hand.
    running: usize,
    sealing: bool,
    done: Vec<(u64, FileEntry)>,
    /// Its outcome was given: it failed.
    failed: bool,
}

impl Entry {
    /// Of the files that were written.
    fn keys(&self) -> Vec<String> {
        let step = self.job.ticket.step;
        self.done
            .iter()
            .map(|(_, file)| key_of(step, &file.path))
            .collect()
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    outcomes: Vec<Outcome>,
    next: u64,
    closed: Option<String>,
}

impl Queue {
    /// Takes a capture on; from here on it has an outcome.
    pub fn push(&mut self, capture: Capture, limit: usize, now: Instant) -> Result<Ticket, Refused> {
        let step = capture.step;
        if let Some(why) = self.closed.clone() {
            return Err(Refused::Closed { step, why });
        }
        if self.unfinished() >= limit {
            return Err(Refused::Full { step, limit });
        }
        let ticket = Ticket {
            number: self.next,
            step,
        };
        self.next += 1;
        let job = Arc::new(Job {
            ticket,
            rank: capture.rank,
            began: now,
            cancelled: watch::Sender::new(false),
            failures: AtomicU32::new(0),
            failing_since: Mutex::new(None),
        });
        self.entries.push_back(Entry {
            job,
            todo: Todo::Plan(capture),
            running: 0,
            sealing: false,
            done: Vec::new(),
            failed: false,
        });
        Ok(ticket)
    }

    /// Captures without an outcome.
    pub fn unfinished(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.failed).count()
    }

    /// The outcomes since the last call.
    pub fn outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    pub fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// Whether a thread that finds no task may end.
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// The next piece of work, in the order of captures and their files.
    pub fn take(&mut self) -> Option<Task> {
        for at in 0..self.entries.len() {
            let entry = &mut self.entries[at];
            let job = Arc::clone(&entry.job);
            match &mut entry.todo {
                Todo::Planning => return None,
                Todo::Plan(_) => {
                    let Todo::Plan(capture) = std::mem::replace(&mut entry.todo, Todo::Planning) else {
                        return None;
                    };
                    return Some(Task::Plan(job, capture));
                }
                Todo::Files(files) => {
                    if let Some(file) = files.pop_front() {
                        entry.running += 1;
                        return Some(Task::Write(job, file));
                    }
                }
            }
            match (entry.running, entry.failed, entry.sealing) {
                (0, true, false) => {
                    let keys = entry.keys();
                    self.entries.remove(at);
                    return Some(Task::Discard(keys));
                }
                (0, false, false) => {
                    entry.sealing = true;
                    return Some(Task::Seal(job, entry.keys()));
                }
                _ => {}
            }
        }
        None
    }

    fn entry(&mut self, job: &Job) -> Option<&mut Entry> {
        self.entries
            .iter_mut()
            .find(|entry| entry.job.ticket == job.ticket)
    }

    /// A capture's files, or why it has none.
    pub fn planned(&mut self, job: &Job, files: Result<Vec<FileTask>, String>) {
        let Some(entry) = self.entry(job) else { return };
        entry.todo = Todo::Files(VecDeque::new());
        match files {
            Ok(files) if !entry.failed => entry.todo = Todo::Files(files.into()),
            Ok(_) => {}
            Err(error) => self.fail(job.ticket, error),
        }
    }

    /// A file is durable (but for its name), or given up.
    pub fn written(&mut self, job: &Job, number: u64, file: Result<FileEntry, String>) {
        let Some(entry) = self.entry(job) else { return };
        entry.running -= 1;
        match file {
            Ok(file) => entry.done.push((number, file)),
            Err(error) => self.fail(job.ticket, error),
        }
    }

    /// The names are durable, or not.
    pub fn sealed(&mut self, job: &Job, result: Result<(), String>, now: Instant) {
        let Some(at) = self.entries.iter().position(|e| e.job.ticket == job.ticket) else {
            return;
        };
        self.entries[at].sealing = false;
        if self.entries[at].failed {
            return;
        }
        if let Err(error) = result {
            return self.fail(job.ticket, error);
        }
        let Some(mut entry) = self.entries.remove(at) else {
            return;
        };
        entry.done.sort_by_key(|(number, _)| *number);
        self.outcomes.push(Outcome::Durable(CheckpointPart {
            step: job.ticket.step,
            rank: job.rank,
            files: entry.done.into_iter().map(|(_, file)| file).collect(),
            persist_seconds: now.saturating_duration_since(job.began).as_secs_f64(),
            stall_seconds: 0.0,
        }));
    }

    /// Gives a capture up, unless it has its outcome. Lets go of every file nobody has in hand.
    pub fn fail(&mut self, ticket: Ticket, error: String) {
        let Some(entry) = self
            .entries
            .iter_mut()
            .find(|e| e.job.ticket == ticket && !e.failed)
        else {
            return;
        };
        entry.failed = true;
        if !matches!(entry.todo, Todo::Planning) {
            entry.todo = Todo::Files(VecDeque::new());
        }
        entry.job.cancelled.send_replace(true);
        let attempts = entry.job.failures.load(Relaxed);
        let step = ticket.step;
        tracing::warn!(step, attempts, error, "a checkpoint of this rank failed");
        self.outcomes.push(Outcome::Failed {
            step,
            error,
            attempts,
        });
    }

    /// Gives every unfinished capture up.
    pub fn fail_all(&mut self, error: &str) {
        let tickets: Vec<Ticket> = self.entries.iter().map(|entry| entry.job.ticket).collect();
        tickets
            .into_iter()
            .for_each(|ticket| self.fail(ticket, error.to_owned()));
    }

    /// Takes no more captures on and gives up those there are.
    pub fn close(&mut self, why: &str) {
        self.closed.get_or_insert_with(|| why.to_owned());
        self.fail_all(why);
    }
}
