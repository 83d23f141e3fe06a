//! One trainer process: started, spoken to, listened to, waited for.
//!
//! In: messages for its stdin, the wish to end it. Out: events for the machine; its stderr goes to its log file.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rekindle_types::{Failure, FailureClass};
use rekindle_worker_core::trainer_messages::{FromTrainer, MAX_LINE, ToTrainer};
use rekindle_worker_core::{Event, Exit, TrainerKey};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::lines::Lines;
use super::{Incoming, TrainerProgram};

/// Messages that wait for a trainer's stdin; there are three in an epoch.
const MESSAGES: usize = 8;
/// Log lines kept for the report of an exit, and the length they are cut to.
const LAST_LINES: usize = 5;
const LAST_LINE_BYTES: usize = 300;
/// A trainer's log line may be this long; a longer one ends the copying of its log.
const LOG_LINE_BYTES: usize = 1 << 20;
/// After its exit, a trainer's pipes may stay open (in a grandchild) for this long.
const DRAIN: Duration = Duration::from_secs(2);

/// A running trainer process. Dropping it kills the process.
pub struct Child {
    pid: Option<u32>,
    started_as: TrainerKey,
    messages: Option<mpsc::Sender<ToTrainer>>,
    kill: CancellationToken,
    /// Whether it is to stand still.
    held: watch::Sender<bool>,
}

impl Child {
    /// Starts the process; `log` takes its stderr.
    pub fn spawn(
        program: &TrainerProgram,
        key: TrainerKey,
        log: &Path,
        events: mpsc::Sender<Incoming>,
    ) -> std::io::Result<Self> {
        if let Some(folder) = log.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|e| std::io::Error::other(format!("can't make {}: {e}", folder.display())))?;
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
        let file = file.map_err(|e| std::io::Error::other(format!("can't open {}: {e}", log.display())))?;
        drop(file);
        let mut child = Command::new(&program.program)
            .args(&program.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let missing = || std::io::Error::other("the process has no pipes");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let (messages, outgoing) = mpsc::channel(MESSAGES);
        let kill = CancellationToken::new();
        let (held, wishes) = watch::channel(false);
        let pid = child.id();
        tokio::spawn(write(stdin, outgoing));
        let tail = tokio::spawn(copy_log(stderr, log.to_owned()));
        tokio::spawn(own(
            child,
            key.clone(),
            stdout,
            tail,
            kill.clone(),
            wishes,
            events,
        ));
        Ok(Self {
            pid,
            started_as: key,
            messages: Some(messages),
            kill,
            held,
        })
    }

    /// The trainer that it was started as, which its events name.
    pub fn started_as(&self) -> &TrainerKey {
        &self.started_as
    }

    /// The process id, while it lives.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Queues a message for it. A trainer that doesn't read has ended or will be killed by the machine's deadline.
    pub fn tell(&self, message: ToTrainer) {
        if let Some(Err(error)) = self.messages.as_ref().map(|queue| queue.try_send(message)) {
            tracing::warn!(%error, "a message for a trainer was dropped");
        }
    }

    /// Asks it to end: `Stop`, then the end of its stdin.
    pub fn terminate(&mut self) {
        self.tell(ToTrainer::Stop);
        self.messages = None;
    }

    /// Makes it stand still, or go on.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Ends it with SIGKILL.
    pub fn kill(&self) {
        self.kill.cancel();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

/// Writes messages to stdin until there are no more, then closes it.
async fn write(mut stdin: ChildStdin, mut messages: mpsc::Receiver<ToTrainer>) {
    while let Some(message) = messages.recv().await {
        // Without a message the trainer can't do its work: the end of its stdin makes it leave, which is reported.
        let mut line = match serde_json::to_vec(&message) {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(%error, "a message for a trainer can't be written");
                return;
            }
        };
        line.push(b'\n');
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// Copies stderr to the log file and keeps the last lines.
async fn copy_log(stderr: ChildStderr, log: std::path::PathBuf) -> VecDeque<String> {
    let mut last = VecDeque::new();
    let mut file = OpenOptions::new().create(true).append(true).open(&log).await;
    if let Err(error) = &file {
        tracing::warn!(%error, log = %log.display(), "a trainer's log can't be opened");
    }
    let mut lines = Lines::new(stderr, LOG_LINE_BYTES);
    while let Ok(Some(line)) = lines.next().await {
        if let Ok(open) = &mut file
            && let Err(error) = append(open, &line).await
        {
            tracing::warn!(%error, log = %log.display(), "a trainer's log can't be written");
            file = Err(error);
        }
        let text = String::from_utf8_lossy(&line)
            .chars()
            .take(LAST_LINE_BYTES)
            .collect();
        last.push_back(text);
        if last.len() > LAST_LINES {
            last.pop_front();
        }
    }
    last
}

async fn append(file: &mut File, line: &[u8]) -> std::io::Result<()> {
    file.write_all(line).await?;
    file.write_all(b"\n").await?;
    file.flush().await
}

/// Owns the process: passes on what it says, waits for its end, says how it ended.
async fn own(
    mut child: tokio::process::Child,
    key: TrainerKey,
    stdout: ChildStdout,
    tail: JoinHandle<VecDeque<String>>,
    kill: CancellationToken,
    mut held: watch::Receiver<bool>,
    events: mpsc::Sender<Incoming>,
) {
    let reading = tokio::spawn(listen(stdout, key.clone(), events.clone()));
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            () = kill.cancelled() => {
                if let Err(error) = child.start_kill() {
                    tracing::warn!(%error, trainer = %key, "can't kill a trainer");
                }
                break child.wait().await;
            }
            Ok(()) = held.changed() => {
                let signal = if *held.borrow_and_update() { libc::SIGSTOP } else { libc::SIGCONT };
                send(&child, signal);
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN, reading).await;
    let last_lines = tokio::time::timeout(DRAIN, tail)
        .await
        .ok()
        .and_then(Result::ok)
        .unwrap_or_default();
    let mut exit = Exit {
        last_lines: last_lines.into(),
        ..Exit::default()
    };
    match status {
        Ok(status) => (exit.code, exit.signal) = (status.code(), status.signal()),
        Err(error) => exit
            .last_lines
            .push(format!("waiting for the process failed: {error}")),
    }
    let _ = events.send(Incoming::Child(Event::Exited { key, exit })).await;
}

/// Signals a process that wasn't waited for yet.
fn send(child: &tokio::process::Child, signal: libc::c_int) {
    let Some(pid) = child.id().and_then(|pid| libc::pid_t::try_from(pid).ok()) else {
        return;
    };
    // SAFETY: kill has no memory effects. The pid is that of a child of ours which wasn't reaped yet (`id` is none
    // after that), so that it isn't reused.
    unsafe { libc::kill(pid, signal) };
}

/// Turns the trainer's lines into events. A line that makes no sense fails the trainer.
async fn listen(stdout: ChildStdout, key: TrainerKey, events: mpsc::Sender<Incoming>) {
    let mut lines = Lines::new(stdout, MAX_LINE);
    loop {
        let message = match lines.next().await {
            Ok(None) => return,
            Ok(Some(line)) => serde_json::from_slice(&line).unwrap_or_else(|e| nonsense(&e.to_string())),
            Err(error) => nonsense(&error.to_string()),
        };
        let failed = matches!(message, FromTrainer::Failed(_));
        let event = Event::FromTrainer {
            key: key.clone(),
            message,
        };
        if events.send(Incoming::Child(event)).await.is_err() || failed {
            return;
        }
    }
}

fn nonsense(why: &str) -> FromTrainer {
    let message = format!("the trainer said something that makes no sense: {why}");
    FromTrainer::Failed(Failure {
        class: FailureClass::Internal,
        rank: None,
        worker: None,
        message,
    })
}
