//! Workers coming, coming back and going: registration, adoption of running trainers, lost connections.

use rekindle_types::{
    Command, Epoch, JobId, JobState, RankId, Registration, TrainerPhase, TrainerStatus, WorkerId,
};

use crate::effect::{CloseReason, SessionTerms};
use crate::machine::Coordinator;
use crate::registry::{Occupant, Worker};
use crate::{Change, Effect, RankPhase, SessionId};

impl Coordinator {
    pub(crate) fn register(&mut self, session: SessionId, registration: Registration) {
        let worker = registration.worker.clone();
        if let Err(reason) = self.admissible(session, &registration) {
            self.emit(Effect::CloseSession {
                session,
                worker,
                reason,
            });
            return;
        }
        self.replace_entry(session, &registration);
        self.emit(Effect::AcceptSession {
            session,
            worker: worker.clone(),
            terms: SessionTerms {
                heartbeat: self.config.heartbeat,
                lease: self.config.lease,
            },
        });
        for trainer in &registration.trainers {
            self.adopt(&worker, trainer);
        }
        self.forget_ended(&worker, &registration.kept);
        let jobs: Vec<JobId> = self.runs.keys().cloned().collect();
        for job in jobs {
            self.reconcile(&job, &worker, registration.incarnation);
        }
        self.place_queue();
    }

    /// Has the worker let go of state that no job needs any more.
    fn forget_ended(&mut self, worker: &WorkerId, kept: &[JobId]) {
        for job in kept {
            if self.state_of(job).is_none_or(JobState::is_terminal) {
                self.send(worker, Command::Forget { job: job.clone() });
            }
        }
    }

    fn admissible(&self, session: SessionId, registration: &Registration) -> Result<(), CloseReason> {
        let worker = registration.worker.clone();
        let unusable = |why: String| {
            let worker = worker.clone();
            Err(CloseReason::Unusable { worker, why })
        };
        let most = self.config.max_slots;
        if !(1..=most).contains(&registration.slots) {
            return unusable(format!("it offers {} slots; use 1 to {most}", registration.slots));
        }
        let Some(known) = self.registry.workers.get(&worker) else {
            let workers = self.registry.workers.len();
            if workers >= self.config.max_workers {
                return unusable(format!("{workers} workers are registered, which is the limit"));
            }
            return Ok(());
        };
        let now = self.mono();
        let fresh = known.incarnation() != Some(registration.incarnation);
        let alive = known.session.is_some_and(|old| old != session) && now < known.heard + self.config.lease;
        if fresh && (alive || self.is_awaited(&worker, registration.incarnation)) {
            return Err(CloseReason::NameTaken { worker });
        }
        Ok(())
    }

    /// After a restart of the coordinator a name is kept for the process whose trainers are awaited under it: another
    /// process of the name may have been refused before, and must not slip in first.
    fn is_awaited(&self, worker: &WorkerId, incarnation: u64) -> bool {
        let awaits = |job: &JobId| {
            let members = self.live.job(job).map(|job| &job.members);
            members
                .and_then(|members| members.get(worker))
                .is_some_and(|known| *known != incarnation)
                && !self.unfinished_on(job, worker).is_empty()
        };
        let unseen = self
            .registry
            .workers
            .get(worker)
            .is_some_and(|entry| entry.info.is_none());
        unseen && self.runs.keys().any(awaits)
    }

    /// Takes the worker's new entry. The numbers of handled reports stay valid for the same process.
    fn replace_entry(&mut self, session: SessionId, registration: &Registration) {
        let now = self.mono();
        let name = &registration.worker;
        let old = self.registry.remove(name);
        let returns = old
            .as_ref()
            .is_some_and(|old| old.incarnation() == Some(registration.incarnation));
        if let Some(old_session) = old.as_ref().and_then(|old| old.session)
            && old_session != session
        {
            self.emit(Effect::CloseSession {
                session: old_session,
                worker: name.clone(),
                reason: CloseReason::Superseded { worker: name.clone() },
            });
        }
        let entry = Worker {
            info: Some(Registration {
                trainers: Vec::new(),
                ..registration.clone()
            }),
            session: Some(session),
            heard: now,
            since: now,
            cut: None,
            last_report: old.as_ref().filter(|_| returns).map_or(0, |old| old.last_report),
            draining: old.as_ref().is_some_and(|old| returns && old.draining),
            blamed: old.as_ref().is_some_and(|old| returns && old.blamed),
            held: old.filter(|_| returns).map(|old| old.held).unwrap_or_default(),
            occupants: std::collections::BTreeMap::new(),
        };
        self.registry.workers.insert(name.clone(), entry);
        self.registry.sessions.insert(session, name.clone());
    }

    /// Takes over a trainer that lives on `worker`, or has it stopped.
    fn adopt(&mut self, worker: &WorkerId, trainer: &TrainerStatus) {
        let wanted = self.wanted_plan(&trainer.job).is_some_and(|plan| {
            plan.epoch == trainer.epoch && plan.workers.get(trainer.rank.0 as usize) == Some(worker)
        });
        if let Some(entry) = self.registry.workers.get_mut(worker) {
            let occupant = Occupant::new(trainer.epoch);
            entry
                .occupants
                .insert((trainer.job.clone(), trainer.rank), occupant);
        }
        if !wanted {
            self.stop_on(
                worker,
                &trainer.job,
                trainer.epoch,
                "no current plan has this trainer",
            );
            return;
        }
        let Some(rank) = self
            .runs
            .get_mut(&trainer.job)
            .and_then(|run| run.rank_mut(trainer.rank))
        else {
            return;
        };
        rank.address.clone_from(&trainer.data_address);
        rank.in_memory.clone_from(&trainer.in_memory);
        rank.missing_by = None;
        rank.phase = match trainer.phase {
            TrainerPhase::Loading => RankPhase::Starting,
            TrainerPhase::Ready => RankPhase::Ready,
            TrainerPhase::Training => RankPhase::Training,
        };
    }

    /// Compares what a job's plan wants on a worker that has just registered with what is there.
    fn reconcile(&mut self, job: &JobId, worker: &WorkerId, incarnation: u64) {
        self.check_cancelled(job);
        let known = self
            .live
            .job(job)
            .and_then(|job| job.members.get(worker).copied());
        let Some(known) = known else { return };
        let open = self.unfinished_on(job, worker);
        if known != incarnation {
            // Also while a failure is being traced: this may well be its cause.
            if let Some(rank) = open.first() {
                self.lose_rank(job, *rank, worker, "was restarted; its trainers are gone");
            }
            return;
        }
        let Some(plan) = self.training_plan(job) else {
            return;
        };
        for rank in open {
            if !self.holds(worker, job, rank, plan.epoch) {
                self.miss(job, &plan, rank, worker);
            }
        }
        self.record(Change::Noted {
            job: job.clone(),
            actor: format!("worker/{worker}"),
            kind: "worker.returned".to_owned(),
            detail: format!("worker {worker} is connected again"),
        });
        self.give_time(job);
        self.connect_gang(job);
        self.aim_if_connected(job);
    }

    /// Whether the rank's trainer is there that belongs to `epoch`; one of an older epoch may have outlived its order.
    fn holds(&self, worker: &WorkerId, job: &JobId, rank: RankId, epoch: Epoch) -> bool {
        let entry = self.registry.workers.get(worker);
        let occupant = entry.and_then(|entry| entry.occupants.get(&(job.clone(), rank)));
        occupant.is_some_and(|occupant| occupant.epoch == epoch)
    }

    /// A rank isn't on the worker that should have it: it never got the order to start, or it ended and the report is
    /// on its way.
    fn miss(&mut self, job: &JobId, plan: &rekindle_types::Plan, rank: RankId, worker: &WorkerId) {
        let by = self.mono() + self.config.reconnect_grace;
        let starting = self.state_of(job) == Some(JobState::Starting);
        let Some(state) = self.runs.get_mut(job).and_then(|run| run.rank_mut(rank)) else {
            return;
        };
        if starting && state.phase == RankPhase::Starting {
            self.start_rank(plan, rank, worker);
        } else {
            state.missing_by = Some(by);
        }
    }

    /// The next step isn't due before a floor's length from now: a worker that came back may have reports to catch up
    /// with, one that waits for storage can't go on before.
    pub(crate) fn give_time(&mut self, job: &JobId) {
        let by = self.mono() + self.config.progress_floor;
        if let Some(run) = self.runs.get_mut(job) {
            run.goal_by = run.goal_by.max(by);
        }
    }

    pub(crate) fn heartbeat(&mut self, session: SessionId) {
        let now = self.mono();
        if self.registry.hear(session, now).is_none() {
            self.stale_session(session);
        }
    }

    pub(crate) fn session_lost(&mut self, session: SessionId) {
        let now = self.mono();
        let Some(worker) = self.registry.sessions.remove(&session) else {
            return;
        };
        if let Some(entry) = self.registry.workers.get_mut(&worker) {
            entry.session = None;
            entry.cut = Some(now);
        }
        let jobs: Vec<JobId> = self.runs.keys().cloned().collect();
        for job in jobs {
            if !self.unfinished_on(&job, &worker).is_empty() {
                self.record(Change::Noted {
                    job,
                    actor: format!("worker/{worker}"),
                    kind: "worker.disconnected".to_owned(),
                    detail: format!("the connection of worker {worker} broke"),
                });
            }
        }
    }
}
