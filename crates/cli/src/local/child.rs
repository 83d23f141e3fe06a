//! One child process: started with its stderr in a file, stopped politely and then not.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, ChildStdout, Command};

use crate::problem::Problem;

/// How long a child may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// A running `rekindle` process and the group it leads.
#[derive(Debug)]
pub struct ChildProcess {
    name: String,
    log: PathBuf,
    child: Child,
}

impl ChildProcess {
    /// Starts this very binary with `args`; its stderr is appended to `log`.
    ///
    /// Call it from the main task: the kernel ends the child when the thread that started it ends.
    ///
    /// # Errors
    /// The log can't be written or the process can't be started.
    pub fn start(name: &str, args: &[String], log: &Path, stdout: Stdio) -> Result<Self, Problem> {
        let failed = |e| Problem::new(format!("can't start {name}")).cause(e);
        let binary = std::env::current_exe().map_err(failed)?;
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|e| Problem::new(format!("can't write {}", log.display())).cause(e))?;
        let mut command = Command::new(binary);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(true);
        end_with_parent(&mut command);
        let child = command.spawn().map_err(failed)?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_path_buf(),
            child,
        })
    }

    /// What it writes to stdout; once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// A problem that says how the child ended and shows the end of its log.
    #[must_use]
    pub fn died(&self, how: impl std::fmt::Display) -> Problem {
        Problem::new(format!("{} ended: {how}", self.name))
            .cause(tail(&self.log, 8))
            .fix(format!("the whole log is in {}", self.log.display()))
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Waits for its end; it and its group are killed after the grace period.
    pub async fn stopped(&mut self) {
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            self.signal(libc::SIGKILL);
            let _ = self.child.wait().await;
        }
    }

    /// Signals the whole group.
    fn signal(&self, signal: libc::c_int) {
        let Some(pid) = self.child.id().and_then(|pid| libc::pid_t::try_from(pid).ok()) else {
            return;
        };
        // SAFETY: kill has no memory effects. The pid is a child's that wasn't reaped yet (`id` is none after that),
        // so that it is neither reused nor -1.
        unsafe { libc::kill(-pid, signal) };
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
    }
}

#[cfg(target_os = "linux")]
fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: between fork and exec only prctl and getppid are called, both async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // The parent may have died before the call above.
            if u32::try_from(libc::getppid()).ok() != Some(parent) {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent(_command: &mut Command) {}

/// The last lines of a file, for an error message.
fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
