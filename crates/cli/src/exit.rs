//! The exit statuses there are.

use std::process::ExitCode;

use rekindle_types::JobState;

/// What a process says when it ends. 100 and up: about a followed job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Couldn't be done; the reason is on stderr.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The followed job failed.
    JobFailed = 100,
    /// The followed job hasn't ended.
    JobUnfinished = 101,
    /// There is no such job.
    JobNotFound = 102,
    /// The followed job was cancelled.
    JobCancelled = 103,
}

impl Exit {
    /// The status for a followed job that was last seen in `state`.
    #[must_use]
    pub fn of_job(state: JobState) -> Self {
        match state {
            JobState::Succeeded => Self::Ok,
            JobState::Failed => Self::JobFailed,
            JobState::Cancelled => Self::JobCancelled,
            _ => Self::JobUnfinished,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
