//! The writing threads: take tasks, try files again while the budget lasts, report. A thread that dies is an outcome,
//! too.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::file::{Content, FileTask, Hasher, plan};
use super::options::{Retry, WriterOptions};
use super::queue::{Job, Queue, Task};
use crate::store::{StoreError, StoreErrorKind};

/// Why an attempt at a file ended.
#[derive(Debug)]
pub(super) enum Failure {
    /// The store refused or failed.
    Store(StoreError),
    /// The file can't be made, whatever the store does.
    Broken(String),
    /// Nobody wants it any more.
    Cancelled,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// Whether another attempt makes sense: a full disk may be emptied, rights may be given, a service may come back.
    /// A name that is taken or that can't be is no better later.
    fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => !matches!(
                error.kind(),
                StoreErrorKind::AlreadyExists | StoreErrorKind::Invalid
            ),
            Self::Broken(_) | Self::Cancelled => false,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Store(error) => error.to_string(),
            Self::Broken(why) => why,
            Self::Cancelled => "given up".to_owned(),
        }
    }
}

/// Where files go: a folder or an object store.
pub(super) trait Sink: Send + Sync {
    /// One attempt. The file's content is durable when it returns, its name after [`Sink::seal`]. Leaves nothing
    /// behind when it fails, as far as that is possible. `again`: a part of an earlier attempt may be there.
    fn write(
        &self,
        content: &Content,
        hasher: &mut Hasher,
        again: bool,
        watch: &Watch<'_>,
    ) -> Result<(), Failure>;

    /// Makes the names durable.
    fn seal(&self, keys: &[String]) -> Result<(), StoreError>;

    /// Removes files, as far as that is possible; ones that aren't there are fine.
    fn discard(&self, keys: &[String]);
}

/// What the threads and their owner share.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// For idle threads: there may be a task.
    work: Condvar,
    /// For threads between two attempts: their capture may have been given up.
    pauses: Condvar,
    /// For callers: a capture has its outcome.
    done: Condvar,
    pub options: WriterOptions,
    pub alive: AtomicUsize,
    started: Instant,
    /// Milliseconds after `started` at which something moved last.
    moved: AtomicU64,
}

/// An attempt's eyes: tells when to stop, and is told what moves.
pub(super) struct Watch<'a> {
    pub job: &'a Job,
    shared: &'a Shared,
}

impl Watch<'_> {
    /// Bytes have moved; fails when the capture was given up.
    pub fn tick(&self) -> Result<(), Failure> {
        self.shared.tick();
        if self.job.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        Ok(())
    }
}

impl Shared {
    pub fn new(options: WriterOptions) -> Self {
        Self {
            queue: Mutex::default(),
            work: Condvar::new(),
            pauses: Condvar::new(),
            done: Condvar::new(),
            options,
            alive: AtomicUsize::new(0),
            started: Instant::now(),
            moved: AtomicU64::new(0),
        }
    }

    /// The queue, for a look or a change that threads and callers are told of.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the queue and wakes everybody.
    pub fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let result = change(&mut self.queue());
        self.wake_threads();
        self.done.notify_all();
        result
    }

    /// Adds one task to the queue. Wakes one thread and no more: who adds it is in a hurry, and the others would find
    /// nothing to do.
    pub fn add<T>(&self, add: impl FnOnce(&mut Queue) -> T) -> T {
        let result = add(&mut self.queue());
        self.work.notify_one();
        result
    }

    fn wake_threads(&self) {
        self.work.notify_all();
        self.pauses.notify_all();
    }

    /// Waits until `ready` gives something, for at most `patience`.
    pub fn wait<T>(&self, patience: Duration, ready: impl Fn(&mut Queue) -> Option<T>) -> Option<T> {
        let began = Instant::now();
        let mut queue = self.queue();
        loop {
            self.give_up_stuck(&mut queue);
            if let Some(found) = ready(&mut queue) {
                return Some(found);
            }
            let left = patience.checked_sub(began.elapsed()).filter(|l| !l.is_zero())?;
            // Wakes now and then by itself, for captures that are stuck.
            let left = left.min(Duration::from_secs(1));
            let waited = self.done.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Threads that hang in the system can't be ended, and don't use up anybody's budget: what waits for them fails
    /// here.
    pub fn give_up_stuck(&self, queue: &mut Queue) {
        let limit = self.options.hang_timeout + self.options.retry.budget;
        let moved = Duration::from_millis(self.moved.load(Relaxed));
        let still = self.started.elapsed().saturating_sub(moved);
        if still > limit && queue.unfinished() > 0 {
            queue.fail_all(&format!(
                "nothing was written for {} s: the storage hangs",
                still.as_secs()
            ));
            self.wake_threads();
        }
    }

    pub fn tick(&self) {
        let now = self.started.elapsed().as_millis();
        self.moved.store(u64::try_from(now).unwrap_or(u64::MAX), Relaxed);
    }

    fn next(&self) -> Option<Task> {
        let mut queue = self.queue();
        loop {
            if let Some(task) = queue.take() {
                return Some(task);
            }
            if queue.is_closed() {
                return None;
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sleeps, unless the capture is given up meanwhile.
    fn pause(&self, job: &Job, pause: Duration) {
        let began = Instant::now();
        let mut queue = self.queue();
        while let Some(left) = pause.checked_sub(began.elapsed()).filter(|l| !l.is_zero()) {
            if job.is_cancelled() {
                return;
            }
            let waited = self.pauses.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Tells the owner when a thread ends, and everybody when it ends without being asked to.
struct Alive<'a>(&'a Shared);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Relaxed);
        self.0
            .change(|queue| queue.close("a writing thread has ended, which is a defect"));
    }
}

/// A thread's life.
pub(super) fn run(shared: &Shared, sink: &dyn Sink) {
    let _alive = Alive(shared);
    crate::priority::yield_to_others(shared.options.nice);
    while let Some(task) = shared.next() {
        match task {
            Task::Plan(job, capture) => {
                let files = guarded(|| {
                    plan(capture, shared.options.group_bytes).map_err(|e| Failure::Broken(e.to_string()))
                });
                shared.change(|queue| queue.planned(&job, files.map_err(Failure::text)));
            }
            Task::Write(job, file) => {
                let number = file.content.number;
                let written = guarded(|| write(shared, sink, &job, file));
                shared.change(|queue| queue.written(&job, number, written.map_err(Failure::text)));
            }
            Task::Seal(job, keys) => {
                let sealed = guarded(|| insist(shared, &job, u64::MAX, |_, _| Ok(sink.seal(&keys)?)));
                shared.change(|queue| queue.sealed(&job, sealed.map_err(Failure::text), Instant::now()));
            }
            Task::Discard(keys) => {
                // Nobody waits for it, and there is nothing to be done about a failure.
                let _ = guarded(|| {
                    sink.discard(&keys);
                    Ok(())
                });
            }
        }
    }
}

/// Turns a panic into a failure: a capture must have an outcome, and the next one a thread.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // What the work holds is dropped with it; nothing half changed is looked at again.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_default();
        Err(Failure::Broken(format!(
            "a writing thread panicked, which is a defect: {text}"
        )))
    })
}

fn write(
    shared: &Shared,
    sink: &dyn Sink,
    job: &Job,
    mut file: FileTask,
) -> Result<rekindle_types::FileEntry, Failure> {
    let FileTask { content, hasher } = &mut file;
    insist(shared, job, content.number, |watch, again| {
        sink.write(content, hasher, again, watch)
    })?;
    file.finish().map_err(Failure::Broken)
}

/// Tries until it works, can't work, isn't wanted any more, or the budget is used up.
fn insist(
    shared: &Shared,
    job: &Job,
    number: u64,
    mut attempt: impl FnMut(&Watch<'_>, bool) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let retry: &Retry = &shared.options.retry;
    let watch = Watch { job, shared };
    for failures in 1.. {
        watch.tick()?;
        let failure = match attempt(&watch, failures > 1) {
            Ok(()) => {
                job.succeeded();
                return Ok(());
            }
            Err(failure) => failure,
        };
        if matches!(failure, Failure::Cancelled) {
            return Err(failure);
        }
        let failing = job.failed(Instant::now());
        if !failure.may_pass() || failing >= retry.budget {
            return Err(failure);
        }
        let pause = retry.pause(number, failures);
        tracing::warn!(
            step = job.ticket.step,
            ?failure,
            ?pause,
            "writing a checkpoint failed; trying again"
        );
        shared.pause(job, pause);
    }
    Ok(())
}
