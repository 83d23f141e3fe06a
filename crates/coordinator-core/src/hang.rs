//! A gang that stands still: what is overdue, and at which rank it begins.
//!
//! ```text
//!   Watermark: a trainer got on --> the goal's deadline moves: no step is too long that makes progress
//!   a trainer says nothing, its worker is heard, no step is committed --> HANG of it after Config::silence
//!   the goal's deadline passes --> HANG of the rank that the others wait for
//! ```
//!
//! Trainers whose step takes long say so again and again, from a thread that computes nothing. So one that says
//! nothing while no step is committed stands still as a process; that is known without any idea of how long a step
//! may take. One that is heard and doesn't get on is judged by the steps before. A worker that isn't heard of is its
//! lease's business, and so are its trainers: as long as one isn't, no step is overdue, as it may have been
//! committed, or the rank at fault be there; nor is anybody silent, who may wait for one there that never heard whom
//! to connect to.

use rekindle_types::clock::Mono;
use rekindle_types::{Failure, FailureClass, JobId, RankId, Watermark, WorkerId};

use crate::machine::Coordinator;
use crate::run::{Goal, RankRun, Run};
use crate::waits::{Chain, origin};
use crate::{Config, Millis, RankPhase};

/// Ranks of a chain that are told: its end.
const MOST_TOLD: usize = 6;

/// Heartbeats that may fail to come before a worker counts as one that isn't heard of.
const MISSED: u64 = 3;

/// A watermark and when it was heard.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// The newest one.
    pub(crate) mark: Watermark,
    /// When it came.
    pub(crate) at: Mono,
}

impl RankRun {
    /// Whether it was heard of lately, by its own word.
    fn speaks(&self, now: Mono, config: &Config) -> bool {
        let heard = self.heard.as_ref();
        heard.is_some_and(|heard| now < heard.at + config.silence / 2)
    }

    /// Whom it waits for, by its own word of lately.
    fn waits_for(&self, now: Mono, config: &Config) -> Option<RankId> {
        let wait = self.heard.as_ref()?.mark.waits.as_ref()?;
        self.speaks(now, config).then_some(wait.on)
    }
}

impl Run {
    /// Whom a rank waits for.
    fn next(&self, rank: RankId, now: Mono, config: &Config) -> Option<RankId> {
        let state = self.ranks.get(rank.0 as usize)?;
        let on = state.waits_for(now, config)?;
        self.ranks.get(on.0 as usize).map(|_| on)
    }

    /// Takes a watermark.
    fn mark(&mut self, rank: RankId, mark: Watermark, now: Mono, config: &Config) {
        let Some(state) = self.rank_mut(rank) else { return };
        let before = state.heard.replace(Heard { mark, at: now });
        let progress = state.heard.as_ref().map(|heard| heard.mark.progress());
        // The first one tells where it is, not whether it got on.
        if before.is_some_and(|before| progress > Some(before.mark.progress())) {
            self.goal_by = self.goal_by.max(now + self.limit(config));
        }
    }

    /// The chain of waits to the rank at which they begin.
    fn chain(&self, now: Mono, config: &Config) -> Option<Chain> {
        let ranks = (0..).map(RankId).take(self.ranks.len());
        origin(ranks, |rank| self.next(rank, now, config))
    }
}

impl Coordinator {
    /// A trainer says how far it is.
    pub(crate) fn watermark(&mut self, id: &JobId, rank: RankId, mark: Watermark) {
        let now = self.mono();
        if let Some(run) = self.runs.get_mut(id) {
            run.mark(rank, mark, now, &self.config);
        }
    }

    /// How long a rank has said nothing that should, as far as its worker was heard of, and the one that tells of
    /// steps: what they have to pass on comes before their next heartbeat, and after their registration. None: it
    /// needn't say anything, or it can't be known.
    fn silent_for(&self, id: &JobId, run: &Run, rank: RankId) -> Option<Millis> {
        let state = run.ranks.get(rank.0 as usize)?;
        let entry = |rank| self.registry.workers.get(&self.worker_of(id, rank)?);
        let (own, teller) = (entry(rank)?, entry(RankId(0))?);
        let connected = own.session.is_some() && teller.session.is_some();
        let known = connected && state.phase == RankPhase::Training;
        let heard = state.heard.as_ref().map_or(0, |heard| heard.at);
        let since = [run.since, heard, own.since, teller.since, state.told_connect];
        let since = since.into_iter().max().unwrap_or(0);
        known.then(|| own.heard.min(teller.heard).saturating_sub(since))
    }

    /// By when every worker with a rank that isn't through is heard of, or lost. None: all were heard of lately.
    fn unheard_until(&self, id: &JobId) -> Option<Mono> {
        let (now, config) = (self.mono(), &self.config);
        let plan = self.live.job(id).and_then(|job| job.plan.as_ref());
        let workers = plan.into_iter().flat_map(|plan| &plan.workers);
        let open = workers.filter(|worker| !self.unfinished_on(id, worker).is_empty());
        let unheard = |worker: &WorkerId| {
            let entry = self.registry.workers.get(worker)?;
            let unheard = entry.session.is_none() || now > entry.heard + MISSED * config.heartbeat;
            unheard.then(|| entry.lost_at(config))
        };
        open.filter_map(unheard).max()
    }

    /// When the goal is overdue.
    pub(crate) fn overdue_at(&self, id: &JobId, run: &Run) -> Mono {
        let unheard = self.unheard_until(id);
        unheard.map_or(run.goal_by, |until| until.max(run.goal_by))
    }

    /// The failure of a job that trains and stands still, if it does.
    pub(crate) fn stands_still(&mut self, id: &JobId) -> Option<Failure> {
        let now = self.mono();
        let run = self.runs.get_mut(id).filter(|run| run.failed_at.is_none())?;
        let looks = now >= run.look_at(&self.config);
        if looks {
            run.looked = now;
        }
        let run = self.runs.get(id)?;
        match now >= self.overdue_at(id, run) {
            true => Some(self.hang(id, run)),
            false if looks && self.unheard_until(id).is_none() => self.silent(id, run),
            false => None,
        }
    }

    /// The failure of a trainer that has said nothing for so long that it stands still: the one that others wait for,
    /// if there are several.
    fn silent(&self, id: &JobId, run: &Run) -> Option<Failure> {
        let stands = |rank: &RankId| {
            let silent = self.silent_for(id, run, *rank);
            silent.is_some_and(|ms| ms >= self.config.silence)
        };
        let mut ranks = (0..).map(RankId).take(run.ranks.len());
        let first = ranks.find(stands)?;
        let chain = run.chain(self.mono(), &self.config);
        let at_its_end = chain.filter(|chain| chain.end().is_some_and(|end| stands(&end)));
        let (rank, message) = self.told_chain(id, run, at_its_end.unwrap_or_else(|| Chain::To(vec![first])));
        Some(self.failure_at(id, rank, message))
    }

    fn failure_at(&self, id: &JobId, rank: Option<RankId>, message: String) -> Failure {
        Failure {
            class: FailureClass::Hang,
            rank,
            worker: rank.and_then(|rank| self.worker_of(id, rank)),
            message,
        }
    }

    /// What is overdue, and at which rank where that can be told.
    fn hang(&self, id: &JobId, run: &Run) -> Failure {
        let last = run.last_step.as_ref().map_or(0, |step| step.step);
        let limit = run.limit(&self.config);
        let overdue = match run.goal {
            Goal::Start => format!("its trainer wasn't ready {limit} ms after the start; see its log"),
            Goal::FirstStep => format!(
                "no step was committed {limit} ms after the trainers were connected or one of them was heard to get on"
            ),
            Goal::Step => format!(
                "no step was committed for {limit} ms after step {last}, and no trainer was heard to get on"
            ),
            Goal::Finish => format!("it wasn't through {limit} ms after the last step ({last})"),
        };
        let chain = match run.goal {
            Goal::Start => None,
            _ => run.chain(self.mono(), &self.config),
        };
        let (rank, message) = match chain {
            Some(chain) => {
                let (rank, story) = self.told_chain(id, run, chain);
                (rank, format!("{overdue}; {story}"))
            }
            None => (first_open(run), overdue),
        };
        self.failure_at(id, rank, message)
    }

    /// A chain in words, and the rank at its end.
    fn told_chain(&self, id: &JobId, run: &Run, chain: Chain) -> (Option<RankId>, String) {
        let (Chain::To(path) | Chain::Around(path)) = &chain;
        let told = links(path.get(path.len().saturating_sub(MOST_TOLD)..).unwrap_or(path));
        let Some(end) = chain.end() else {
            let first = path
                .first()
                .map_or_else(String::new, |first| format!(", which waits for {first}"));
            return (
                None,
                format!("{told}{first}: a circle, which is a defect of Rekindle"),
            );
        };
        let what = path.iter().rev().nth(1).and_then(|rank| {
            let heard = run.ranks.get(rank.0 as usize)?.heard.as_ref()?;
            Some(format!(" ({})", heard.mark.waits.as_ref()?.what))
        });
        let state = self.told_state(id, run, end);
        match what {
            Some(what) => (Some(end), format!("{told}{what}: {state}")),
            None => (Some(end), state),
        }
    }

    /// What is known of a rank that doesn't get on.
    fn told_state(&self, id: &JobId, run: &Run, rank: RankId) -> String {
        let now = self.mono();
        let speaks = |state: &&RankRun| state.speaks(now, &self.config);
        let state = run.ranks.get(rank.0 as usize).filter(speaks);
        if let Some(heard) = state.and_then(|state| state.heard.as_ref()) {
            let (step, passes) = heard.mark.progress();
            return format!(
                "{rank} is heard of, waits for nobody and doesn't get on (at step {step}, after {passes} passes of micro-batches)"
            );
        }
        match self.silent_for(id, run, rank) {
            Some(ms) => format!("{rank} has said nothing for {ms} ms: its process stands still"),
            None => format!("nothing is heard of {rank}, nor of its worker"),
        }
    }

    pub(crate) fn worker_of(&self, id: &JobId, rank: RankId) -> Option<WorkerId> {
        let plan = self.live.job(id)?.plan.as_ref()?;
        plan.workers.get(rank.0 as usize).cloned()
    }
}

/// Where nobody says that it waits: the first rank that isn't where all have to be, or the only one there is.
fn first_open(run: &Run) -> Option<RankId> {
    let wanted = match run.goal {
        Goal::Start => RankPhase::Ready,
        Goal::Finish => RankPhase::Finished,
        Goal::FirstStep | Goal::Step => return (run.ranks.len() == 1).then_some(RankId(0)),
    };
    let mut ranks = (0..).map(RankId).zip(&run.ranks);
    ranks
        .find(|(_, state)| state.phase < wanted)
        .map(|(rank, _)| rank)
}

/// `rank 3 waits for rank 2, which waits for rank 1`.
fn links(path: &[RankId]) -> String {
    let Some((first, others)) = path.split_first() else {
        return String::new();
    };
    let others: Vec<String> = others.iter().map(|rank| format!("waits for {rank}")).collect();
    format!("{first} {}", others.join(", which "))
}
