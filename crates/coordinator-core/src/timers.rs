//! Every deadline in one place: what is awaited, and what happens when it doesn't come (CO-4).

use std::collections::BTreeMap;

use rekindle_types::{JobId, JobState, RankId, WorkerId};

use crate::Effect;
use crate::effect::CloseReason;
use crate::machine::Coordinator;
use crate::run::Run;
use rekindle_types::clock::Mono;

impl Coordinator {
    /// All deadlines there are.
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = Mono> + '_ {
        let workers = self
            .registry
            .workers
            .values()
            .map(|entry| entry.lost_at(&self.config));
        let stops = self.registry.workers.values().filter_map(|entry| {
            entry.session?;
            let mut told = Vec::new();
            for occupant in entry.occupants.values() {
                told.extend(occupant.told_stop.or(occupant.halt_unanswered()));
            }
            told.into_iter().min().map(|told| told + self.config.resend_stop)
        });
        let runs = self.runs.iter().flat_map(|(id, run)| self.run_deadlines(id, run));
        let regroups = self.regroups.values().copied().filter(|by| *by > self.ticked);
        workers
            .chain(stops)
            .chain(runs)
            .chain(regroups)
            .chain(self.search_deadlines())
    }

    fn run_deadlines(&self, id: &JobId, run: &Run) -> Vec<Mono> {
        match self.state_of(id) {
            Some(JobState::Cancelling) => {
                let awaited = run.awaited.as_ref().map(|awaited| awaited.by);
                run.cancel_by.into_iter().chain(awaited).collect()
            }
            _ => {
                let awaited = run.awaited.as_ref().map(|awaited| awaited.by);
                let missing = run.ranks.iter().filter_map(|rank| rank.missing_by);
                let verdict = self.verdict_at(id);
                let stands = self.overdue_at(id, run).min(run.look_at(&self.config));
                let stands = verdict.is_none().then_some(stands);
                missing.chain(verdict).chain(stands).chain(awaited).collect()
            }
        }
    }

    pub(crate) fn tick(&mut self) {
        self.ticked = self.mono();
        self.expire_workers();
        let jobs: Vec<JobId> = self.runs.keys().cloned().collect();
        for job in jobs {
            self.expire_run(&job);
        }
        self.repeat_stops();
        self.place_queue();
        self.expire_halts();
    }

    fn expire_workers(&mut self) {
        let now = self.mono();
        let lost = |entry: &crate::registry::Worker| now >= entry.lost_at(&self.config);
        let gone = self.registry.workers.iter().filter(|(_, entry)| lost(entry));
        let gone: Vec<WorkerId> = gone.map(|(name, _)| name.clone()).collect();
        for worker in gone {
            let Some(entry) = self.registry.remove(&worker) else {
                continue;
            };
            self.stats.workers_lost += 1;
            let silent_ms = now.saturating_sub(entry.heard);
            if let Some(session) = entry.session {
                let reason = CloseReason::LeaseExpired {
                    worker: worker.clone(),
                    silent_ms,
                };
                self.emit(Effect::CloseSession {
                    session,
                    worker: worker.clone(),
                    reason,
                });
            }
            let what = match (&entry.info, entry.session) {
                (None, _) => {
                    format!("did not come back within {silent_ms} ms after the coordinator's restart")
                }
                (Some(_), Some(_)) => format!("wasn't heard of for {silent_ms} ms"),
                (Some(_), None) => format!("lost its connection and did not come back within {silent_ms} ms"),
            };
            self.worker_gone(&worker, &what);
        }
    }

    fn expire_run(&mut self, id: &JobId) {
        let now = self.mono();
        self.serve_awaited(id);
        if self.state_of(id) == Some(JobState::Cancelling) {
            let due = self
                .runs
                .get(id)
                .and_then(|run| run.cancel_by)
                .is_some_and(|by| now >= by);
            if due {
                self.end(id, JobState::Cancelled, None);
            }
            return;
        }
        self.expire_missing(id);
        if self.verdict_at(id).is_some_and(|at| now >= at) {
            self.decide(id);
        }
        if let Some(failure) = self.stands_still(id) {
            self.note_failure(id, failure);
        }
    }

    fn expire_missing(&mut self, id: &JobId) {
        let now = self.mono();
        let Some(run) = self.runs.get_mut(id) else { return };
        let mut missing = Vec::new();
        for (rank, state) in (0..).map(RankId).zip(&mut run.ranks) {
            if state.missing_by.is_some_and(|by| now >= by) {
                state.missing_by = None;
                missing.push(rank);
            }
        }
        for rank in missing {
            let Some(worker) = self.worker_of(id, rank) else {
                continue;
            };
            self.lose_rank(
                id,
                rank,
                &worker,
                "came back without it and never said how it ended",
            );
        }
    }

    /// Stops that nobody answered are said again.
    fn repeat_stops(&mut self) {
        let (now, every) = (self.mono(), self.config.resend_stop);
        let mut due = BTreeMap::new();
        for (name, entry) in self
            .registry
            .workers
            .iter()
            .filter(|(_, entry)| entry.session.is_some())
        {
            for ((job, _), occupant) in &entry.occupants {
                if occupant.told_stop.is_some_and(|told| now >= told + every) {
                    let newest = due.entry((name.clone(), job.clone())).or_insert(occupant.epoch);
                    *newest = occupant.epoch.max(*newest);
                }
            }
        }
        for ((worker, job), epoch) in due {
            self.stop_on(&worker, &job, epoch, "it was told to stop before");
        }
    }
}
