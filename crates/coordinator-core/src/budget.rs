//! How often a job may be restarted, in all and after failures of one class, and how much of that is used up.
//!
//! In: a job as the journal knows it. Out: its budgets. Restarts count from the last progress that lasts on: a
//! committed checkpoint, or a step committed after going on from memory.

use rekindle_types::FailureClass;

use crate::durable_job::DurableJob;

/// A bound on restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The class of failures it is for; none: any.
    pub class: Option<FailureClass>,
    /// Restarts without lasting progress so far.
    pub used: u32,
    /// One more loss after so many fails the job.
    pub most: u32,
}

/// Those of a job: of classes that the job file names, then that of their sum.
pub(crate) fn budgets(job: &DurableJob) -> Vec<Budget> {
    let recovery = &job.spec.recovery;
    let of = |(class, most): (&FailureClass, &u32)| Budget {
        class: Some(*class),
        used: job.restarts_of.get(class).copied().unwrap_or(0),
        most: *most,
    };
    let all = Budget {
        class: None,
        used: job.restarts,
        most: recovery.max_restarts,
    };
    recovery.max_restarts_of.iter().map(of).chain([all]).collect()
}

impl Budget {
    /// Why a job isn't restarted once more, behind the failure's own words.
    pub(crate) fn used_up(&self) -> String {
        let (key, after) = match self.class {
            Some(class) => (
                format!("recovery.max_restarts_of.{class}"),
                format!(" after a {class}"),
            ),
            None => ("recovery.max_restarts".to_owned(), String::new()),
        };
        let times = match self.used {
            1 => "once".to_owned(),
            used => format!("{used} times"),
        };
        match self.most {
            0 => format!("; the job file allows no restart{after} ({key} = 0)"),
            most => format!(
                "; it was restarted {times}{after} without lasting progress, as often as {key} = {most} allows"
            ),
        }
    }
}
