//! Checkpoints from their first part to their commit: one of a gang is committed at a time, in the order of steps.
//!
//! ```text
//!   Gathering --all parts--> Waiting --the one before is answered--> Committing --CheckpointWritten--> gone
//!       |                       +--keep_last newer ones wait, too: passed over
//!       +--a rank couldn't, or a newer one has all its reports: given up
//! ```
//!
//! A store may take longer for a manifest than trainers for the steps up to the next checkpoint. What waits meanwhile
//! is bounded, and it is the newest: an older one would be deleted as soon as those are committed. So the state after
//! the last step never lacks room.
//!
//! Deliberately absent: what becomes of a commit (see `saves`).

use std::collections::{BTreeMap, BTreeSet};

use rekindle_types::{CheckpointPart, JobId, RankId, rebuilt_by};

use crate::machine::Coordinator;
use crate::run::{Goal, Run};
use crate::{Commit, Effect};

/// Checkpoints that wait at most, however many are kept.
const MOST_WAITING: usize = 64;

/// How far a checkpoint is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// Ranks haven't reported it yet.
    #[default]
    Gathering,
    /// It has all its parts.
    Waiting,
    /// Its manifest is being written.
    Committing,
}

/// A checkpoint that is being written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Save {
    /// What ranks made durable.
    pub(crate) parts: BTreeMap<RankId, CheckpointPart>,
    /// Ranks that said how it went.
    pub(crate) reported: BTreeSet<RankId>,
    /// A rank couldn't.
    pub(crate) failed: bool,
    stage: Stage,
}

impl Run {
    fn at(&self, stage: Stage) -> impl DoubleEndedIterator<Item = u64> + '_ {
        let there = self.saves.iter().filter(move |(_, save)| save.stage == stage);
        there.map(|(step, _)| *step)
    }
}

impl Coordinator {
    /// A rank has reported a checkpoint: lets it wait for its turn when it has all its parts, and gives up what can't
    /// have them.
    pub(crate) fn advance_save(&mut self, job: &JobId, step: u64) {
        let world = self.live.job(job).and_then(|job| job.plan.as_ref());
        let world = world.map_or(usize::MAX, |plan| plan.world() as usize);
        let Some(run) = self.runs.get_mut(job) else { return };
        let Some(save) = run.saves.get_mut(&step) else {
            return;
        };
        if save.stage != Stage::Gathering || save.reported.len() < world {
            return;
        }
        save.stage = Stage::Waiting;
        run.all_reported = step;
        let failed = save.failed.then_some(step);
        let incomplete: Vec<u64> = run.at(Stage::Gathering).filter(|older| *older < step).collect();
        let epoch = run.epoch;
        for step in incomplete.into_iter().chain(failed) {
            self.forget_save(job, epoch, step);
        }
        self.pass_over(job);
        self.commit_next(job);
    }

    /// Gives up those that more newer ones wait behind than are kept.
    fn pass_over(&mut self, id: &JobId) {
        let (Some(job), Some(run)) = (self.live.job(id), self.runs.get(id)) else {
            return;
        };
        let keep = usize::try_from(job.spec.checkpoint.keep_last).unwrap_or(MOST_WAITING);
        let keep = keep.clamp(1, MOST_WAITING);
        let (epoch, old) = (run.epoch, run.at(Stage::Waiting).rev().skip(keep));
        for step in old.collect::<Vec<u64>>() {
            let detail =
                format!("the state after step {step} is not committed: {keep} newer ones wait for the store");
            self.note(id, "checkpoint.passed_over", detail);
            self.forget_save(id, epoch, step);
        }
    }

    /// Commits the oldest checkpoint that waits, unless one is being committed.
    pub(crate) fn commit_next(&mut self, job: &JobId) {
        let now = self.mono();
        let Some(run) = self.runs.get_mut(job) else { return };
        if run.at(Stage::Committing).next().is_some() {
            return;
        }
        // Trainers that are through wait for commits, which are bounded one by one.
        if run.goal == Goal::Finish {
            run.aim(Goal::Finish, now, &self.config);
        }
        let next = run.at(Stage::Waiting).next();
        if let Some(step) = next {
            self.commit(job, step);
        }
    }

    /// A gang is about to be given up: what has all its parts is worth a commit still.
    pub(crate) fn commit_rest(&mut self, job: &JobId) {
        let Some(run) = self.runs.get(job) else { return };
        for step in run.at(Stage::Waiting).collect::<Vec<u64>>() {
            self.commit(job, step);
        }
    }

    fn commit(&mut self, id: &JobId, step: u64) {
        let after = self.after();
        let Some(job) = self.live.job(id) else { return };
        let Some(plan) = job.plan.clone() else { return };
        let save = self.runs.get_mut(id).and_then(|run| run.saves.get_mut(&step));
        let Some(save) = save else { return };
        save.stage = Stage::Committing;
        let commit = Commit {
            job: id.clone(),
            spec: job.spec.clone(),
            plan,
            writer: job.writer.clone(),
            step,
            resumed_from: job.start.clone(),
            rebuilt: rebuilt_by(&job.rebuilt, step),
            parts: save.parts.values().cloned().collect(),
            refused: job.refused.clone(),
            after,
        };
        self.emit(Effect::CommitCheckpoint(Box::new(commit)));
    }
}
