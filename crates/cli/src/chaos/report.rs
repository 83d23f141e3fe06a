//! What `rekindle chaos` prints: a line for every fault, and the report at the end.

use std::collections::BTreeMap;

use rekindle_types::{FaultKind, FaultTarget, JobState};
use serde::Serialize;

use super::goodput::Account;
use super::schedule::Planned;

/// What became of a planned fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Injected,
    /// A worker or the coordinator didn't do it.
    Refused,
    /// There was nothing to do it to, or no coordinator to ask.
    Missed,
}

/// A fault that was due.
#[derive(Debug, Clone, Serialize)]
pub struct FaultLine {
    /// `fault`, to tell it from the report.
    pub r#type: &'static str,
    /// Since the start.
    pub at_seconds: f64,
    /// What goes wrong.
    pub kind: FaultKind,
    /// To whom, in words; none: nobody was there.
    pub target: Option<String>,
    /// How long it lasts.
    pub hold_seconds: Option<f64>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it wasn't done.
    pub message: Option<String>,
}

impl FaultLine {
    /// A line about `planned`.
    #[must_use]
    pub fn new(
        planned: &Planned,
        at_seconds: f64,
        target: Option<&FaultTarget>,
        outcome: Result<(), (Outcome, String)>,
    ) -> Self {
        let (outcome, message) = match outcome {
            Ok(()) => (Outcome::Injected, None),
            Err((outcome, message)) => (outcome, Some(message)),
        };
        Self {
            r#type: "fault",
            at_seconds,
            kind: planned.kind,
            target: target.map(ToString::to_string),
            hold_seconds: planned.kind.lasts().then_some(planned.hold_ms as f64 / 1e3),
            outcome,
            message,
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let target = self.target.as_deref().unwrap_or("nobody");
        let hold = self
            .hold_seconds
            .map_or_else(String::new, |s| format!(" for {s:.1} s"));
        let outcome = match (self.outcome, &self.message) {
            (Outcome::Injected, _) => String::new(),
            (Outcome::Refused, why) => format!("  refused: {}", why.as_deref().unwrap_or_default()),
            (Outcome::Missed, why) => format!("  missed: {}", why.as_deref().unwrap_or_default()),
        };
        format!(
            "{:>8.1}s  {:<16} {target}{hold}{outcome}",
            self.at_seconds, self.kind
        )
    }
}

/// How often each outcome came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Done.
    pub injected: u64,
    /// Refused.
    pub refused: u64,
    /// Missed.
    pub missed: u64,
}

/// A job that was followed.
#[derive(Debug, Clone, Serialize)]
pub struct JobReport {
    /// Its id.
    pub job: String,
    /// Where it was at the end.
    pub state: JobState,
    /// Why it failed.
    pub failure: Option<rekindle_types::Failure>,
    /// What its time went into; none: its history couldn't be read.
    pub account: Option<Account>,
    /// Why it couldn't be read.
    pub unread: Option<String>,
}

/// The report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `report`, to tell it from a fault.
    pub r#type: &'static str,
    /// The schedule's seed.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// Faults by kind; kinds that never were due are left out.
    pub faults: BTreeMap<FaultKind, Counts>,
    /// The jobs.
    pub jobs: Vec<JobReport>,
}

impl Report {
    /// An empty one.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            r#type: "report",
            seed,
            seconds: 0.0,
            faults: BTreeMap::new(),
            jobs: Vec::new(),
        }
    }

    /// Counts a fault.
    pub fn count(&mut self, line: &FaultLine) {
        let counts = self.faults.entry(line.kind).or_default();
        match line.outcome {
            Outcome::Injected => counts.injected += 1,
            Outcome::Refused => counts.refused += 1,
            Outcome::Missed => counts.missed += 1,
        }
    }

    /// The rows of the table of faults, under FAULT, INJECTED, REFUSED, MISSED.
    #[must_use]
    pub fn fault_rows(&self) -> Vec<Vec<String>> {
        let row = |(kind, counts): (&FaultKind, &Counts)| {
            let Counts {
                injected,
                refused,
                missed,
            } = counts;
            vec![
                kind.to_string(),
                injected.to_string(),
                refused.to_string(),
                missed.to_string(),
            ]
        };
        self.faults.iter().map(row).collect()
    }
}

impl JobReport {
    /// The rows of the job's table, under WHAT, VALUE.
    #[must_use]
    pub fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![vec!["job".to_owned(), format!("{}, {}", self.job, self.state)]];
        let mut row = |what: &str, value: String| rows.push(vec![what.to_owned(), value]);
        if let Some(failure) = &self.failure {
            row("failure", crate::follow::failure_text(failure));
        }
        let Some(account) = &self.account else {
            let why = self.unread.as_deref().unwrap_or("it wasn't read");
            row("its time", format!("unknown: {why}"));
            return rows;
        };
        row("took", format!("{:.1} s", account.seconds));
        row("recoveries", account.recoveries.to_string());
        row(
            "steps",
            format!("{}, run again {}", account.steps, account.steps_again),
        );
        row("faults took", format!("{:.1} s", account.lost_seconds));
        row("goodput", format!("{:.1} %", 100.0 * account.goodput));
        let all = account.worker_seconds.sum().max(f64::MIN_POSITIVE);
        for (name, seconds) in account.worker_seconds.each() {
            let share = 100.0 * seconds / all;
            row(
                &format!("  {name}"),
                format!("{share:>5.1} %  {seconds:.1} worker-seconds"),
            );
        }
        rows
    }
}
