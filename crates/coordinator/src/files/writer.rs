//! A task per job that appends to its run's files, so that a slow disk holds up nobody else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rekindle_coordinator_core::Event;
use rekindle_types::{JobEvent, JobId, StepReport};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use super::folder::{EVENTS, METRICS, folder_of};
use super::lines::Lines;
use crate::handle::Input;

/// Lines that wait for a disk at most; more than that fails the job.
const QUEUE: usize = 4096;
const BATCH: usize = 256;

/// Something to write.
#[derive(Debug)]
pub(crate) enum Line {
    /// Make the folder and open the files.
    Prepare,
    /// A committed step.
    Metrics(Box<StepReport>),
    /// A line of history.
    Event(Box<JobEvent>),
}

/// All runs' writers. Owned by the machine's task.
#[derive(Debug)]
pub(crate) struct Files {
    writers: BTreeMap<JobId, Writer>,
    inbox: mpsc::WeakSender<Input>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Writer {
    lines: mpsc::Sender<Line>,
    given: u64,
    done: watch::Receiver<u64>,
}

/// Resolves when everything handed over before is written (or can't be).
#[derive(Debug, Clone)]
pub(crate) struct Wait {
    done: watch::Receiver<u64>,
    target: u64,
}

impl Wait {
    #[cfg(test)]
    pub(crate) fn new(done: watch::Receiver<u64>, target: u64) -> Self {
        Self { done, target }
    }

    pub(crate) async fn wait(mut self) {
        // An error means that the writer ended, which it does after its last line only.
        let _ = self.done.wait_for(|done| *done >= self.target).await;
    }
}

impl Files {
    pub(crate) fn new(inbox: mpsc::WeakSender<Input>, tasks: TaskTracker) -> Self {
        Self {
            writers: BTreeMap::new(),
            inbox,
            tasks,
        }
    }

    /// Hands a line over. Never waits.
    ///
    /// # Errors
    /// What to tell the user when the disk is too far behind.
    pub(crate) fn put(&mut self, job: &JobId, output: &str, line: Line) -> Result<(), String> {
        let writer = match self.writers.get_mut(job) {
            Some(writer) => writer,
            None => {
                let writer = self.start(job, folder_of(output));
                self.writers.entry(job.clone()).or_insert(writer)
            }
        };
        match writer.lines.try_send(line) {
            Ok(()) => {
                writer.given += 1;
                Ok(())
            }
            Err(_) => Err(format!(
                "{output} doesn't take lines as fast as they come; use a faster disk"
            )),
        }
    }

    /// What is still being written for `job`.
    pub(crate) fn wait(&self, job: &JobId) -> Option<Wait> {
        self.writers.get(job).and_then(Writer::wait)
    }

    /// What is still being written for anybody.
    pub(crate) fn wait_all(&self) -> Vec<Wait> {
        self.writers.values().filter_map(Writer::wait).collect()
    }

    /// Closes the files of jobs that are not `living`, once nothing is on its way to them.
    pub(crate) fn retire(&mut self, living: impl Fn(&JobId) -> bool) {
        self.writers
            .retain(|job, writer| living(job) || writer.wait().is_some());
    }

    fn start(&self, job: &JobId, folder: PathBuf) -> Writer {
        let (lines, queue) = mpsc::channel(QUEUE);
        let (told, done) = watch::channel(0);
        self.tasks
            .spawn(write(job.clone(), folder, queue, told, self.inbox.clone()));
        Writer {
            lines,
            given: 0,
            done,
        }
    }
}

impl Writer {
    fn wait(&self) -> Option<Wait> {
        (*self.done.borrow() < self.given).then(|| Wait {
            done: self.done.clone(),
            target: self.given,
        })
    }
}

async fn write(
    job: JobId,
    folder: PathBuf,
    mut queue: mpsc::Receiver<Line>,
    told: watch::Sender<u64>,
    inbox: mpsc::WeakSender<Input>,
) {
    let mut run = Some(Run { folder, open: None });
    let mut done = 0;
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        done += batch.len() as u64;
        let lines = std::mem::take(&mut batch);
        let Some(mut files) = run.take() else {
            continue;
        };
        let wrote = tokio::task::spawn_blocking(move || files.write(lines).map(|()| files)).await;
        match wrote {
            Ok(Ok(files)) => {
                run = Some(files);
                told.send_replace(done);
            }
            failed => {
                let message = match failed {
                    Ok(Err(why)) => why,
                    _ => "writing the run's files ended unexpectedly".to_owned(),
                };
                tracing::error!(%job, message, "output failed");
                // Nothing more will be written: nobody needs to wait.
                told.send_replace(u64::MAX);
                if let Some(inbox) = inbox.upgrade() {
                    let event = Event::OutputFailed {
                        job: job.clone(),
                        message,
                    };
                    let _ = inbox.send(Input::Event(event)).await;
                }
            }
        }
    }
}

/// A run's folder and its open files.
struct Run {
    folder: PathBuf,
    open: Option<(Lines<StepReport>, Lines<JobEvent>)>,
}

impl Run {
    fn write(&mut self, lines: Vec<Line>) -> Result<(), String> {
        let folder = self.folder.clone();
        self.try_write(lines)
            .map_err(|e| format!("{} can't be written: {e}", folder.display()))
    }

    fn try_write(&mut self, lines: Vec<Line>) -> std::io::Result<()> {
        let (metrics, events) = match &mut self.open {
            Some(open) => open,
            None => {
                std::fs::create_dir_all(&self.folder)?;
                let metrics = Lines::open(&self.folder.join(METRICS))?;
                let events = Lines::open(&self.folder.join(EVENTS))?;
                self.open.insert((metrics, events))
            }
        };
        let (mut new_steps, mut new_events) = (Vec::new(), Vec::new());
        for line in lines {
            match line {
                Line::Prepare => {}
                Line::Metrics(step) => new_steps.push(*step),
                Line::Event(event) => new_events.push(*event),
            }
        }
        // After a restart lines come again; a step of a newer epoch was really run again.
        let mut last = metrics.last.as_ref().map(|s| (s.epoch, s.step));
        new_steps.retain(|s| is_newer(&mut last, (s.epoch, s.step)));
        // Another job may have used the folder, if it never committed a step.
        let same = events.last.as_ref().map(|e| e.job.clone()) == new_events.first().map(|e| e.job.clone());
        let mut last = events.last.as_ref().filter(|_| same).map(|e| e.seq);
        new_events.retain(|e| is_newer(&mut last, e.seq));
        metrics.append(new_steps)?;
        events.append(new_events)
    }
}

fn is_newer<K: PartialOrd + Copy>(last: &mut Option<K>, key: K) -> bool {
    let newer = last.is_none_or(|last| key > last);
    if newer {
        *last = Some(key);
    }
    newer
}
