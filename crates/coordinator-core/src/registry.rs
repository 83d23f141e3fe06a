//! Who the workers are, which connection is theirs, when they were heard of, and what occupies their slots.
//!
//! Plain bookkeeping; what follows from a change is decided in [`crate::sessions`] and [`crate::gang`].

use std::collections::BTreeMap;

use rekindle_plan::Slot;
use rekindle_types::{Epoch, JobId, RankId, Registration, WorkerId};

use crate::{Config, SessionId};
use rekindle_types::clock::Mono;

/// A trainer that holds a slot, as far as the coordinator knows.
#[derive(Debug, Clone)]
pub(crate) struct Occupant {
    /// The epoch it was started for.
    pub(crate) epoch: Epoch,
    /// When it was last told to stop.
    pub(crate) told_stop: Option<Mono>,
    /// When it was told to give its epoch up.
    pub(crate) told_halt: Option<Mono>,
    /// It has given its epoch up, and waits for the next one.
    pub(crate) halted: bool,
}

impl Occupant {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            told_stop: None,
            told_halt: None,
            halted: false,
        }
    }

    /// Whether it can go over to another epoch.
    pub(crate) fn waits(&self) -> bool {
        self.halted && self.told_stop.is_none()
    }

    /// When it was told to halt, if nothing was heard since.
    pub(crate) fn halt_unanswered(&self) -> Option<Mono> {
        self.told_halt
            .filter(|_| !self.halted && self.told_stop.is_none())
    }
}

/// A worker.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    /// What it said of itself; none for a worker that hasn't come back since the coordinator's restart.
    pub(crate) info: Option<Registration>,
    /// Its connection.
    pub(crate) session: Option<SessionId>,
    /// When it was last heard of, or when the coordinator started to wait for it.
    pub(crate) heard: Mono,
    /// When its connection was made.
    pub(crate) since: Mono,
    /// When its connection broke.
    pub(crate) cut: Option<Mono>,
    /// The newest report handled.
    pub(crate) last_report: u64,
    /// Reports that aren't acknowledged before their checkpoint is committed or given up, by number.
    pub(crate) held: BTreeMap<u64, (JobId, Epoch, u64)>,
    /// It was asked to leave: nothing new is placed on it.
    pub(crate) draining: bool,
    /// Its device failed: others are preferred as long as this process has the name. Not durable: a coordinator that
    /// starts again finds out anew.
    pub(crate) blamed: bool,
    /// What holds its slots.
    pub(crate) occupants: BTreeMap<(JobId, RankId), Occupant>,
}

impl Worker {
    /// A worker that is expected to come back.
    pub(crate) fn expected(now: Mono) -> Self {
        Self {
            info: None,
            session: None,
            heard: now,
            since: now,
            cut: Some(now),
            last_report: 0,
            held: BTreeMap::new(),
            draining: false,
            blamed: false,
            occupants: BTreeMap::new(),
        }
    }

    /// When it counts as lost if nothing is heard.
    pub(crate) fn lost_at(&self, config: &Config) -> Mono {
        let lease = self.heard + config.lease;
        match self.cut {
            Some(cut) => cut + config.reconnect_grace,
            None => lease,
        }
    }

    /// Up to which report it may forget.
    pub(crate) fn acknowledged(&self) -> u64 {
        let held = self.held.keys().next();
        held.map_or(self.last_report, |first| first.saturating_sub(1))
    }

    /// Its incarnation, once it said so.
    pub(crate) fn incarnation(&self) -> Option<u64> {
        self.info.as_ref().map(|info| info.incarnation)
    }
}

/// All workers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    /// By name.
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    /// Whose connection is whose.
    pub(crate) sessions: BTreeMap<SessionId, WorkerId>,
}

impl Registry {
    /// The worker behind a connection that is still its current one, heard of now.
    pub(crate) fn hear(&mut self, session: SessionId, now: Mono) -> Option<(&WorkerId, &mut Worker)> {
        let name = self.sessions.get(&session)?;
        let worker = self.workers.get_mut(name)?;
        worker.heard = now;
        Some((name, worker))
    }

    /// Forgets a worker and its connection.
    pub(crate) fn remove(&mut self, name: &WorkerId) -> Option<Worker> {
        let worker = self.workers.remove(name)?;
        if let Some(session) = worker.session {
            self.sessions.remove(&session);
        }
        Some(worker)
    }

    /// One entry per free slot of every connected worker.
    pub(crate) fn free_slots(&self) -> Vec<Slot> {
        let mut slots = Vec::new();
        for (name, worker) in &self.workers {
            let (Some(info), Some(_), false) = (&worker.info, worker.session, worker.draining) else {
                continue;
            };
            let used = u32::try_from(worker.occupants.len()).unwrap_or(u32::MAX);
            for _ in used..info.slots {
                slots.push(Slot {
                    worker: name.clone(),
                    threads: info.threads,
                });
            }
        }
        slots
    }

    /// The trainers of `job` that wait for its next epoch, where that can be told them.
    pub(crate) fn waiting<'a>(&'a self, job: &'a JobId) -> impl Iterator<Item = (&'a WorkerId, RankId)> + 'a {
        let hears = |worker: &&Worker| worker.session.is_some() && !worker.draining;
        let workers = self.workers.iter().filter(move |(_, worker)| hears(worker));
        workers.flat_map(move |(name, worker)| {
            let of = worker.occupants.iter().filter(move |((of, _), _)| of == job);
            of.filter(|(_, occupant)| occupant.waits())
                .map(move |((_, rank), _)| (name, *rank))
        })
    }

    /// Whether trainers of `job` live that don't wait for its next epoch.
    pub(crate) fn is_busy(&self, job: &JobId) -> bool {
        let all = self.workers.values().flat_map(|worker| worker.occupants.keys());
        all.filter(|(of, _)| of == job).count() > self.waiting(job).count()
    }

    /// Notes that the device of a worker failed.
    pub(crate) fn blame(&mut self, worker: &WorkerId) {
        if let Some(entry) = self.workers.get_mut(worker) {
            entry.blamed = true;
        }
    }

    /// Those of the slots that aren't on a device that failed.
    pub(crate) fn sound(&self, slots: &[Slot]) -> Vec<Slot> {
        let is_blamed = |slot: &&Slot| self.workers.get(&slot.worker).is_some_and(|worker| worker.blamed);
        slots.iter().filter(|slot| !is_blamed(slot)).cloned().collect()
    }

    /// The workers on which trainers of `job` hold slots.
    pub(crate) fn holders(&self, job: &JobId) -> Vec<WorkerId> {
        let holds = |worker: &Worker| worker.occupants.keys().any(|(of, _)| of == job);
        let held = self.workers.iter().filter(|(_, worker)| holds(worker));
        held.map(|(name, _)| name.clone()).collect()
    }
}
