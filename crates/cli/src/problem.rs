//! An error as a person wants it: what went wrong, why, what to do.

use std::fmt::Write as _;
use std::path::Path;

use rekindle_types::SpecError;

use crate::exit::Exit;
use crate::output;

/// Why a command couldn't do its work.
#[derive(Debug)]
pub struct Problem {
    error: String,
    cause: Option<String>,
    fix: Option<String>,
    /// The status the process ends with.
    pub exit: Exit,
    /// Whether there is nobody left to tell (the reader of stdout has gone).
    silent: bool,
}

impl Problem {
    /// A failure; `error` says what couldn't be done, without a full stop.
    #[must_use]
    pub fn new(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            cause: None,
            fix: None,
            exit: Exit::Failed,
            silent: false,
        }
    }

    /// Adds why.
    #[must_use]
    pub fn cause(mut self, cause: impl ToString) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Ends with this status instead of [`Exit::Failed`].
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Stdout can't be written. A reader that has gone away (`| head`) is no error worth a word.
    #[must_use]
    pub fn stdout(error: &std::io::Error) -> Self {
        let mut problem = Self::new("can't write to stdout").cause(error);
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            problem.silent = true;
            problem.exit = Exit::Ok;
        }
        problem
    }

    /// A job file that can't be used.
    #[must_use]
    pub fn job_file(path: &Path, error: &SpecError) -> Self {
        Self::new(format!("the job file {} can't be used", path.display()))
            .cause(error)
            .fix("correct the keys named above; docs/job-file.md lists all keys and their defaults")
    }

    /// `error: … / cause: … / fix: …`, continued lines indented.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let (red, bold, reset) = if color {
            ("\x1b[31;1m", "\x1b[1m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let mut text = format!("{red}error:{reset} {}", self.error);
        for (label, part) in [("cause", &self.cause), ("fix", &self.fix)] {
            if let Some(part) = part {
                let part = part.trim_end().replace('\n', "\n         ");
                let label = format!("{label}:");
                let _ = write!(text, "\n  {bold}{label:<6}{reset} {part}");
            }
        }
        text
    }

    /// Tells the person at the terminal.
    pub fn print(&self) {
        if !self.silent {
            output::say(&self.render(output::stderr_color()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_why_and_what_to_do() {
        let problem = Problem::new("can't eat")
            .cause("no teeth\nno mouth")
            .fix("grow some");
        let expected = "error: can't eat\n  cause: no teeth\n         no mouth\n  fix:   grow some";
        assert_eq!(problem.render(false), expected);
        assert!(!problem.render(false).contains('\x1b'));
        assert!(problem.render(true).contains('\x1b'));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(Problem::stdout(&gone).exit, Exit::Ok);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Problem::stdout(&full).exit, Exit::Failed);
    }
}
