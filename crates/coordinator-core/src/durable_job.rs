//! A job as the journal knows it, and what follows from that: where its state is, what it owes.
//!
//! Fields are only written by the fold ([`crate::durable`]) and the story ([`crate::story`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rekindle_types::spec::{Cadence, RecoverySource};
use rekindle_types::{
    Epoch, Failure, FailureClass, JobEvent, JobSpec, JobState, Origin, Plan, RankId, Rebuilt, StartPoint,
    StepReport, WorkerId,
};

use crate::story::Story;
use crate::{CommittedCheckpoint, Millis};

/// A job as the journal knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct DurableJob {
    /// Counts submissions; the queue's order.
    pub number: u64,
    /// The request that made it; empty: none.
    pub request_id: String,
    /// What it runs.
    pub spec: Arc<JobSpec>,
    /// Whether it is to go on from the newest valid checkpoint in its place.
    pub resume: bool,
    /// Where it stands.
    pub state: JobState,
    /// The newest plan.
    pub plan: Option<Plan>,
    /// Names the plan's trainers in the keys of checkpoint files.
    pub writer: String,
    /// The state the plan's trainers started from.
    pub start: Option<StartPoint>,
    /// What the plan's trainers were told about the state they start from; none: they weren't told to connect yet.
    pub connected: Option<Origin>,
    /// Layers whose state was made up, as the plan's trainers go on with them.
    pub rebuilt: Vec<Rebuilt>,
    /// Norms of the stages' gradients in the last step that the plan before had committed, where they are known.
    pub stage_norms: Vec<f64>,
    /// Whether a step was ever committed.
    pub ran: bool,
    /// The last step the plan before had committed, where that is known.
    pub reached: Option<u64>,
    /// The newest committed checkpoint.
    pub checkpoint: Option<CommittedCheckpoint>,
    /// Checkpoints that failed since the last that didn't.
    pub failed_saves: u32,
    /// Why the last one failed.
    pub save_failure: Option<String>,
    /// Plans that ended badly since the last checkpoint.
    pub restarts: u32,
    /// The same by the class of the failure.
    pub restarts_of: BTreeMap<FailureClass, u32>,
    /// Plans that ended badly.
    pub losses: u32,
    /// URLs of checkpoints that turned out to be damaged.
    pub refused: BTreeSet<String>,
    /// Whether a cancelled job's state is to be saved before its trainers are stopped.
    pub save_first: bool,
    /// Incarnations of the plan's workers.
    pub members: BTreeMap<WorkerId, u64>,
    /// The same of the plan that a recovering job had.
    pub former_members: BTreeMap<WorkerId, u64>,
    /// The worker of each rank when a plan last committed its first step: who had the state.
    pub homes: Vec<WorkerId>,
    /// Incarnations of those.
    pub home_members: BTreeMap<WorkerId, u64>,
    /// Ranks of the plan that are through.
    pub finished: BTreeSet<RankId>,
    /// What went wrong under the plan, in order, until the verdict.
    pub failures: Vec<Failure>,
    /// What was lost so far, and what became of it.
    pub story: Story,
    /// The verdict.
    pub failure: Option<Failure>,
    /// The last committed step, known at the end.
    pub last_step: Option<StepReport>,
    /// When it was submitted.
    pub submitted_at: Millis,
    /// When its first plan was made.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Counts ends; the order of eviction.
    pub end_number: u64,
    /// The newest lines of its history.
    pub events: VecDeque<JobEvent>,
    /// Number of lines of its history.
    pub event_count: u64,
}

impl DurableJob {
    /// A job that was just submitted.
    pub(crate) fn new(number: u64, spec: Arc<JobSpec>, at: Millis) -> Self {
        Self {
            number,
            request_id: String::new(),
            spec,
            resume: false,
            state: JobState::Queued,
            plan: None,
            writer: String::new(),
            start: None,
            connected: None,
            rebuilt: Vec::new(),
            stage_norms: Vec::new(),
            ran: false,
            reached: None,
            checkpoint: None,
            failed_saves: 0,
            save_failure: None,
            restarts: 0,
            restarts_of: BTreeMap::new(),
            losses: 0,
            refused: BTreeSet::new(),
            save_first: false,
            members: BTreeMap::new(),
            former_members: BTreeMap::new(),
            homes: Vec::new(),
            home_members: BTreeMap::new(),
            finished: BTreeSet::new(),
            failures: Vec::new(),
            story: Story::default(),
            failure: None,
            last_step: None,
            submitted_at: at,
            started_at: None,
            ended_at: None,
            end_number: 0,
            events: VecDeque::new(),
            event_count: 0,
        }
    }

    /// Epoch of the newest plan, 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.plan.as_ref().map_or(Epoch(0), |plan| plan.epoch)
    }

    /// Mean time between failures at `now`, seconds: the time the job has run and the time that was expected to pass
    /// without a failure before any was seen, by one more than the failures.
    #[must_use]
    pub fn mtbf_seconds(&self, now: Millis) -> f64 {
        let ran = now.saturating_sub(self.started_at.unwrap_or(now)) as f64 / 1e3;
        (ran + self.spec.checkpoint.mtbf_hours * 3600.0) / f64::from(self.losses + 1)
    }

    /// Whether it may go back to a checkpoint.
    #[must_use]
    pub fn goes_back_to_checkpoints(&self) -> bool {
        self.spec.checkpoint.is_on() && self.spec.recovery.sources.contains(&RecoverySource::Checkpoint)
    }

    /// Progress was made that lasts: what was restarted before doesn't count any more.
    pub(crate) fn lasting_progress(&mut self) {
        self.restarts = 0;
        self.restarts_of.clear();
    }

    /// Whether guards keep shadows of its ranks.
    #[must_use]
    pub fn is_shadowed(&self) -> bool {
        self.spec.recovery.sources.contains(&RecoverySource::Shadow)
    }

    /// Whether these have no weights, so that another lane has to.
    #[must_use]
    pub fn guards_keep_moments_alone(&self) -> bool {
        let plan = self.plan.as_ref();
        plan.is_some_and(|plan| rekindle_plan::moments_alone(&self.spec, plan))
    }

    /// Whether groups of its ranks keep parities of their states.
    #[must_use]
    pub fn keeps_parities(&self) -> bool {
        self.spec.recovery.allows(RecoverySource::Parity)
    }

    /// Whether steps are committed that only workers' memory has the state of.
    #[must_use]
    pub fn lives_in_memory(&self) -> bool {
        self.ran && !self.goes_back_to_checkpoints()
    }

    /// The last step whose update is in the state that the plan's trainers start from.
    #[must_use]
    pub fn started_after(&self) -> u64 {
        let start = self.start.as_ref().map_or(0, |start| start.step);
        self.connected
            .as_ref()
            .and_then(|from| from.step)
            .unwrap_or(start)
    }

    /// The step of the newest checkpoint there is.
    #[must_use]
    pub fn saved_step(&self) -> Option<u64> {
        let saved = self.checkpoint.as_ref().map(|checkpoint| checkpoint.step);
        saved.max(self.start.as_ref().map(|start| start.step))
    }

    /// Whether a checkpoint was due at `step` or before, and isn't there.
    #[must_use]
    pub fn owes_checkpoint(&self, step: u64) -> bool {
        let last = self.spec.training.steps;
        let due = match self.spec.checkpoint.every {
            Cadence::Never => return false,
            _ if step == last => step,
            Cadence::Steps(every) => step - step % every.max(1),
            Cadence::Auto => 0,
        };
        due > self.saved_step().unwrap_or(0)
    }

    /// Whether trainers of the plan are wanted.
    #[must_use]
    pub fn is_training(&self) -> bool {
        matches!(self.state, JobState::Starting | JobState::Running)
    }

    /// Whether the state after the last step is in a committed checkpoint, if the job saves any.
    #[must_use]
    pub fn is_saved(&self) -> bool {
        let steps = self.spec.training.steps;
        !self.spec.checkpoint.is_on() || self.saved_step().is_some_and(|step| step >= steps)
    }

    /// Whether every rank of the plan is through.
    #[must_use]
    pub fn all_finished(&self) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|plan| plan.ranks().all(|rank| self.finished.contains(&rank)))
    }
}
