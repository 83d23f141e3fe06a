//! The newest steps' reports, where a successor finds them: what a killed worker or a lost machine never passed on is
//! told again.
//!
//! ```text
//!   step s: its report is written here, then its state is kept, then rank 0 tells it    so whoever goes on from s has its report
//!   successor: reports up to the step it goes on from, but for those that the coordinator has heard, are told again, and written
//! ```
//!
//! Keepers ([`rekindle_plan::line_keepers`]) write them: rank 0, and ranks on other workers, for when rank 0's
//! machine is lost. On every worker that has some, whoever wrote them, its first rank takes them over. Lines of JSON
//! in a file of the worker's folder, [`MOST`] at least and twice as many at most: steps may be committed for long
//! while nobody hears of them, and what is told again is only what wasn't heard.
//!
//! Invariant
//! - WK-12 Where a keeper's own state of a step that it committed is in its worker's memory, the step's report is,
//!   too, unless it couldn't be written, which is logged.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rekindle_types::StepReport;

use super::context::Context;
use super::left::prefix;

/// Reports a successor finds.
const MOST: usize = 4096;
const OLD: &str = ".old";

/// The reports in a worker's memory.
pub struct Reports {
    folder: PathBuf,
    path: PathBuf,
    /// Whether this rank adds those of its own steps.
    adds: bool,
    /// Made with the first report.
    file: Option<File>,
    lines: usize,
}

impl Reports {
    /// None where another rank sees to the reports in this worker's memory.
    #[must_use]
    pub fn start(folder: Option<&Path>, context: &Context) -> Option<Self> {
        let folder = folder.filter(|_| context.is_first_on_worker())?;
        let path = folder.join(format!("{}{}", start(context), context.plan.epoch.0));
        Some(Self {
            folder: folder.to_owned(),
            adds: context.line_keepers().contains(&context.id()),
            file: None,
            path,
            lines: 0,
        })
    }

    /// Takes over what trainers of older epochs kept: the newest reports up to the step that this one goes on from in
    /// memory, in order of steps, which the coordinator hasn't heard. Those of an epoch that went back to a
    /// checkpoint are of no use.
    #[must_use]
    pub fn take_over(&mut self, context: &Context) -> Vec<StepReport> {
        let found = context.memory_step.map(|step| left(&self.folder, context, step));
        let found = found.unwrap_or_default();
        // What can't be written again stays where it is.
        if found.iter().all(|report| self.keep(report)) {
            forget_older(&self.folder, context);
        }
        found
    }

    /// Keeps the report of a step that was committed, if that is this rank's part.
    pub fn committed(&mut self, report: &StepReport) {
        if self.adds {
            self.keep(report);
        }
    }

    /// Keeps one; whether that worked. When it doesn't, which is logged, nothing more is kept.
    fn keep(&mut self, report: &StepReport) -> bool {
        let written = self.write(report);
        if let Err(error) = &written {
            tracing::warn!(%error, path = %self.path.display(), "reports of steps aren't kept any more");
            self.adds = false;
        }
        written.is_ok()
    }

    fn write(&mut self, report: &StepReport) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        if self.lines == MOST {
            std::fs::rename(&self.path, old(&self.path))?;
            (self.file, self.lines) = (None, 0);
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::create(&self.path)?),
        };
        file.write_all(&line)?;
        self.lines += 1;
        Ok(())
    }
}

/// The newest unheard reports up to `step` that trainers of older epochs kept, in order of steps.
fn left(folder: &Path, context: &Context, step: u64) -> Vec<StepReport> {
    let heard = context.heard.unwrap_or(0);
    let mut all = BTreeMap::new();
    for path in older(folder, context) {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        // A line that was being written when its writer died is no report. The newest are last: few are looked at
        // where most were heard.
        let reports = text
            .lines()
            .rev()
            .filter_map(|line| serde_json::from_str::<StepReport>(line).ok());
        let unheard = reports.take_while(|report| report.step > heard);
        all.extend(
            unheard
                .filter(|report| report.step <= step)
                .map(|report| (report.step, report)),
        );
    }
    let spare = all.len().saturating_sub(MOST);
    all.into_values().skip(spare).collect()
}

/// Removes what trainers of older epochs kept.
fn forget_older(folder: &Path, context: &Context) {
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

    fn context_of(epoch: u64, rank: u32) -> Context {
        let rank = rekindle_types::Rank { lane: 0, stage: rank };
        let mut context = context(1, 3, rank);
        context.plan.epoch = rekindle_types::Epoch(epoch);
        let name = |name: &str| rekindle_types::WorkerId::new(name).unwrap();
        context.plan.workers = ["a", "b", "c"].map(name).to_vec();
        context.spec.recovery.sources = vec![rekindle_types::spec::RecoverySource::Local];
        context.memory_step = Some(u64::MAX);
        context
    }

    fn started(folder: &Path, context: &Context) -> Reports {
        Reports::start(Some(folder), context).unwrap()
    }

    fn steps(found: &[StepReport]) -> Vec<u64> {
        found.iter().map(|report| report.step).collect()
    }

    #[test]
    fn a_successor_finds_the_newest_reports_up_to_its_step_and_no_torn_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut context = context_of(1, 0);
        let mut reports = started(folder.path(), &context);
        let last = 2 * MOST as u64 + 10;
        (1..=last).for_each(|step| reports.committed(&report(step)));
        write!(reports.file.as_mut().unwrap(), "{{\"step\":{}", last + 1).unwrap();
        assert!(left(folder.path(), &context, last).is_empty(), "its own epoch's");
        context.plan.epoch = context.plan.epoch.next();
        let found = steps(&left(folder.path(), &context, last + 1));
        assert_eq!((found.len(), found.last()), (MOST, Some(&last)));
        assert!(found.is_sorted());
        context.memory_step = Some(last - 3);
        let mut successor = started(folder.path(), &context);
        assert_eq!(steps(&successor.take_over(&context)).last(), Some(&(last - 3)));
        assert!(
            left(folder.path(), &context, last).is_empty(),
            "there is a newer file"
        );
        // Whoever comes after that one has them from it, and none after its step.
        let next = context_of(3, 0);
        let found = steps(&started(folder.path(), &next).take_over(&next));
        assert_eq!((found.len(), found.last()), (MOST, Some(&(last - 3))));
    }

    #[test]
    fn what_was_heard_is_neither_told_again_nor_kept() {
        let folder = tempfile::tempdir().unwrap();
        let first = context_of(1, 0);
        let mut reports = started(folder.path(), &first);
        (1..=9).for_each(|step| reports.committed(&report(step)));
        let mut context = context_of(2, 0);
        (context.heard, context.memory_step) = (Some(6), Some(8));
        assert_eq!(
            steps(&started(folder.path(), &context).take_over(&context)),
            [7, 8]
        );
        let next = context_of(3, 0);
        assert_eq!(steps(&left(folder.path(), &next, 9)), [7, 8]);
    }

    /// A folder that takes nothing more: what older epochs left isn't removed for what couldn't be written.
    #[test]
    fn what_cannot_be_written_again_is_left_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let first = context_of(1, 0);
        started(folder.path(), &first).committed(&report(4));
        let context = context_of(2, 0);
        let mut reports = started(folder.path(), &context);
        reports.path = folder.path().join("no such folder").join("file");
        assert_eq!(
            steps(&reports.take_over(&context)),
            [4],
            "it is told all the same"
        );
        assert_eq!(steps(&left(folder.path(), &context, 9)), [4]);
        assert!(!reports.adds);
    }

    #[test]
    fn a_rank_that_adds_none_hands_on_what_it_found_unless_the_job_went_back() {
        let folder = tempfile::tempdir().unwrap();
        let first = context_of(1, 0);
        started(folder.path(), &first).committed(&report(4));
        for epoch in [2, 3] {
            let mut context = context_of(epoch, 2);
            let mut other = started(folder.path(), &context);
            assert_eq!(steps(&other.take_over(&context)), [4]);
            other.committed(&report(5));
            context.plan.epoch = context.plan.epoch.next();
            assert_eq!(
                steps(&left(folder.path(), &context, 9)),
                [4],
                "the step was somebody else's to keep"
            );
        }
        let mut back = context_of(4, 2);
        back.memory_step = None;
        assert!(started(folder.path(), &back).take_over(&back).is_empty());
        let next = context_of(5, 2);
        assert!(left(folder.path(), &next, 9).is_empty());
    }
}
