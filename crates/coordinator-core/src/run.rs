//! A gang at work: what the coordinator knows of the trainers of one plan beyond what the journal holds.
//!
//! ```text
//!   start --all ready--> connect --first step--> steps --last step or first finished rank--> finish
//!     |  start_limit        |  first_step_limit     |  max(floor, factor * slowest recent)      |  finish_limit
//!     +---------------------+-----------------------+-------------------------------------------+--> HANG
//! ```
//!
//! Each limit counts from the moment a trainer was last heard to get on with its step, see [`crate::hang`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rekindle_types::{Epoch, InMemory, Plan, RankId, StepReport};

use crate::commits::Save;
use crate::hang::Heard;
use crate::saves::Awaited;
use crate::{Config, Millis, RankPhase};
use rekindle_types::clock::Mono;

/// What a gang has to reach next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// All ranks ready.
    Start,
    /// The first step committed.
    FirstStep,
    /// Another step committed.
    Step,
    /// All ranks finished.
    Finish,
}

/// A rank of a gang.
#[derive(Debug, Clone)]
pub(crate) struct RankRun {
    /// How far it is.
    pub(crate) phase: RankPhase,
    /// Where it listens.
    pub(crate) address: Option<String>,
    /// Whose state its trainer found in memory.
    pub(crate) in_memory: InMemory,
    /// Its worker came back without it: by when its end must be reported.
    pub(crate) missing_by: Option<Mono>,
    /// This process has heard that it is through, and so everything that it said about checkpoints before. Where only
    /// the journal says that it is, reports about the last checkpoint may still be on their way.
    pub(crate) told_end: bool,
    /// When it was told to connect: it had nothing to say before, however long others have trained. 0: it wasn't, by
    /// this coordinator.
    pub(crate) told_connect: Mono,
    /// What it said last while a step took long.
    pub(crate) heard: Option<Heard>,
}

/// A gang.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The plan's epoch.
    pub(crate) epoch: Epoch,
    /// Indexed by rank.
    pub(crate) ranks: Vec<RankRun>,
    /// What it has to reach next, and by when.
    pub(crate) goal: Goal,
    /// By when.
    pub(crate) goal_by: Mono,
    /// The last committed step.
    pub(crate) last_step: Option<StepReport>,
    /// Steps of epochs before whose reports came only in this one.
    pub(crate) told_again: BTreeSet<u64>,
    /// Durations of the newest steps, milliseconds.
    recent: VecDeque<Millis>,
    /// When the last step was heard of.
    step_heard: Option<Mono>,
    /// When a step was heard of, or the goal was set: trainers that are well have something to say a while after.
    pub(crate) since: Mono,
    /// When it was last looked whether any says nothing.
    pub(crate) looked: Mono,
    /// When the first failure was noted.
    pub(crate) failed_at: Option<Mono>,
    /// When the user's wish to cancel ends the job at the latest.
    pub(crate) cancel_by: Option<Mono>,
    /// Checkpoints that are being written, by step.
    pub(crate) saves: BTreeMap<u64, Save>,
    /// The newest checkpoint that all ranks have reported: what they say about it or an older one comes late.
    pub(crate) all_reported: u64,
    /// A checkpoint that something waits for.
    pub(crate) awaited: Option<Awaited>,
    /// Steps between checkpoints, as rank 0 reckons them.
    pub(crate) interval: Option<u64>,
    /// The last step of which it was noted that storage holds it up.
    pub(crate) held_up: Option<u64>,
}

const RECENT: usize = 8;
/// Steps may be long and uneven: none is overdue before so many times the slowest.
const ENOUGH: u64 = 3;

impl Run {
    /// The gang of a plan that has just been made (or found in the journal).
    pub(crate) fn new(plan: &Plan, now: Mono, config: &Config) -> Self {
        let rank = RankRun {
            phase: RankPhase::Starting,
            address: None,
            in_memory: InMemory::default(),
            missing_by: None,
            told_end: false,
            told_connect: 0,
            heard: None,
        };
        Self {
            epoch: plan.epoch,
            ranks: vec![rank; plan.world() as usize],
            goal: Goal::Start,
            goal_by: now + config.start_limit,
            last_step: None,
            told_again: BTreeSet::new(),
            recent: VecDeque::new(),
            step_heard: None,
            since: now,
            looked: now,
            failed_at: None,
            cancel_by: None,
            saves: BTreeMap::new(),
            all_reported: 0,
            awaited: None,
            interval: None,
            held_up: None,
        }
    }

    /// A rank.
    pub(crate) fn rank_mut(&mut self, rank: RankId) -> Option<&mut RankRun> {
        self.ranks.get_mut(rank.0 as usize)
    }

    /// The ranks that wait to be connected, and all addresses, once every rank listens.
    pub(crate) fn to_connect(&self) -> Option<(Vec<RankId>, BTreeMap<RankId, String>)> {
        let mut peers = BTreeMap::new();
        let mut waiting = Vec::new();
        for (id, rank) in (0..).map(RankId).zip(&self.ranks) {
            peers.insert(id, rank.address.clone()?);
            if rank.phase == RankPhase::Ready {
                waiting.push(id);
            }
        }
        (!waiting.is_empty()).then_some((waiting, peers))
    }

    /// Whether every rank was told to connect.
    pub(crate) fn is_connected(&self) -> bool {
        self.ranks.iter().all(|rank| rank.phase >= RankPhase::Training)
    }

    /// Sets the next goal.
    pub(crate) fn aim(&mut self, goal: Goal, now: Mono, config: &Config) {
        (self.goal, self.since) = (goal, now);
        self.goal_by = now + self.limit(config);
    }

    /// How long it may take to reach the goal while nobody is heard to get on.
    pub(crate) fn limit(&self, config: &Config) -> Millis {
        match self.goal {
            Goal::Start => config.start_limit,
            Goal::FirstStep => config.first_step_limit,
            Goal::Step => self.step_limit(config),
            Goal::Finish => config.finish_limit,
        }
    }

    /// The same for a step after the first: by the slowest of the recent ones, and a few times that in any case. As
    /// long as none was measured the next one may take as long as the first.
    fn step_limit(&self, config: &Config) -> Millis {
        let Some(slowest) = self.recent.iter().copied().max() else {
            return config.first_step_limit.max(config.progress_floor);
        };
        let most = config.first_step_limit.max(slowest.saturating_mul(ENOUGH));
        slowest
            .saturating_mul(u64::from(config.progress_factor))
            .clamp(config.progress_floor, config.progress_floor.max(most))
    }

    /// When to look whether a trainer says nothing that should: as soon as that can be, then at every heartbeat.
    pub(crate) fn look_at(&self, config: &Config) -> Mono {
        (self.since + config.silence).max(self.looked + config.heartbeat)
    }

    /// Takes a new step.
    pub(crate) fn step(&mut self, report: StepReport, last: u64, now: Mono, config: &Config) {
        if let Some(before) = self.step_heard {
            self.recent.push_back(now.saturating_sub(before));
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
        }
        self.step_heard = Some(now);
        let goal = if report.step >= last {
            Goal::Finish
        } else {
            Goal::Step
        };
        self.last_step = Some(report);
        self.aim(goal, now, config);
    }
}
