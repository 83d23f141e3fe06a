//! The newest reports of rank 0's steps, where a successor finds them: what a killed worker never passed on is told again.
//!
//! ```text
//!   step s: its report is written here, then its state is kept, then it is told    so whoever goes on from s has its report
//!   successor: reports up to the step it goes on from are told again; the coordinator writes those it never heard of
//! ```
//!
//! Lines of JSON in a file of the worker's folder, [`MOST`] at least and twice as many at most.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rekindle_types::StepReport;

use super::context::Context;
use super::left::prefix;

/// Reports a successor finds.
const MOST: usize = 256;
const OLD: &str = ".old";

/// Keeps reports.
pub struct Reports {
    path: PathBuf,
    file: Option<File>,
    lines: usize,
}

impl Reports {
    /// Starts an empty file for this epoch's reports.
    #[must_use]
    pub fn new(folder: &Path, context: &Context) -> Self {
        let path = folder.join(format!("{}{}", start(context), context.plan.epoch.0));
        let file = create(&path);
        let lines = 0;
        Self { path, file, lines }
    }

    /// Keeps one. When that fails, which is logged, nothing more is kept.
    pub fn keep(&mut self, report: &StepReport) {
        if self.lines == MOST && self.file.is_some() {
            self.lines = 0;
            self.file = match std::fs::rename(&self.path, old(&self.path)) {
                Ok(()) => create(&self.path),
                Err(error) => gone(&self.path, &error),
            };
        }
        let Some(file) = &mut self.file else { return };
        let mut line = serde_json::to_vec(report).unwrap_or_default();
        line.push(b'\n');
        match file.write_all(&line) {
            Ok(()) => self.lines += 1,
            Err(error) => self.file = gone(&self.path, &error),
        }
    }
}

/// The newest reports up to `step` that trainers of older epochs kept, in order of steps.
#[must_use]
pub fn left(folder: &Path, context: &Context, step: u64) -> Vec<StepReport> {
    let mut all = BTreeMap::new();
    for path in older(folder, context) {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        // A line that was being written when its writer died is no report.
        let reports = text
            .lines()
            .filter_map(|line| serde_json::from_str::<StepReport>(line).ok());
        all.extend(
            reports
                .filter(|report| report.step <= step)
                .map(|report| (report.step, report)),
        );
    }
    let spare = all.len().saturating_sub(MOST);
    all.into_values().skip(spare).collect()
}

/// Removes what trainers of older epochs kept.
pub fn forget_older(folder: &Path, context: &Context) {
    for path in older(folder, context) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "an old trainer's reports can't be removed");
        }
    }
}

fn older(folder: &Path, context: &Context) -> Vec<PathBuf> {
    let start = start(context);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let epoch = name.strip_prefix(&start).map(|rest| rest.trim_end_matches(OLD));
        let epoch = epoch.and_then(|epoch| epoch.parse::<u64>().ok());
        if let Some(epoch) = epoch.filter(|epoch| *epoch < context.plan.epoch.0) {
            found.push((epoch, entry.path()));
        }
    }
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn start(context: &Context) -> String {
    format!("{}steps+e", prefix(context.plan.job.as_str()))
}

fn old(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(OLD);
    name.into()
}

fn create(path: &Path) -> Option<File> {
    File::create(path).map_or_else(|error| gone(path, &error), Some)
}

fn gone(path: &Path, error: &std::io::Error) -> Option<File> {
    tracing::warn!(%error, path = %path.display(), "reports of steps aren't kept");
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::context::tests::context;

    fn report(step: u64) -> StepReport {
        StepReport {
            step,
            loss: 1.5,
            grad_norm: 1.0,
            lr: 0.1,
            tokens: 8,
            step_seconds: 0.5,
            epoch: rekindle_types::Epoch(1),
            data_digest: "d".to_owned(),
            state_digest: None,
            val_loss: None,
            stage_norms: Vec::new(),
        }
    }

    #[test]
    fn a_successor_finds_the_newest_reports_up_to_its_step_and_no_torn_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut context = context(1, 1, rekindle_types::Rank { lane: 0, stage: 0 });
        let mut reports = Reports::new(folder.path(), &context);
        let last = 2 * MOST as u64 + 10;
        (1..=last).for_each(|step| reports.keep(&report(step)));
        write!(reports.file.as_mut().unwrap(), "{{\"step\":{}", last + 1).unwrap();
        let steps = |context: &Context, step| -> Vec<u64> {
            let found = left(folder.path(), context, step);
            found.iter().map(|report| report.step).collect()
        };
        assert!(steps(&context, last).is_empty(), "its own epoch's");
        context.plan.epoch = context.plan.epoch.next();
        let found = steps(&context, last + 1);
        assert_eq!((found.len(), found.last()), (MOST, Some(&last)));
        assert!(found.is_sorted());
        assert_eq!(steps(&context, last - 3).last(), Some(&(last - 3)));
        forget_older(folder.path(), &context);
        assert!(steps(&context, last).is_empty());
    }
}
