//! The machine itself: dispatch of events, the session, deadlines, leaving.

use std::collections::BTreeSet;

use rekindle_types::{Command, InMemory, JobId, Registration, Report, TrainerStatus};

use crate::chaos::Faults;
use crate::effect::{Effect, ExitReason};
use crate::event::Event;
use crate::fence::Fences;
use crate::link::{Link, State};
use crate::outbox::Outbox;
use crate::trainers::{Orders, Trainers};
use crate::{Millis, TrainerKey, WorkerConfig};
use rekindle_types::clock::{Clock, Mono};

/// The worker. See the crate's head for events and effects.
#[derive(Debug, Clone)]
pub struct Worker {
    pub(crate) config: WorkerConfig,
    clock: Clock,
    pub(crate) link: Link,
    pub(crate) outbox: Outbox,
    pub(crate) trainers: Trainers,
    pub(crate) fences: Fences,
    /// Why the worker leaves, and when at the latest.
    pub(crate) leaving: Option<(ExitReason, Mono)>,
    /// Until when trainers may go on though the worker leaves.
    drain_until: Option<Mono>,
    /// Step reports dropped that a warning was given about.
    warned_dropped: u64,
    pub(crate) faults: Faults,
    /// Ended jobs whose state in memory goes with their last trainer here.
    pub(crate) to_forget: BTreeSet<JobId>,
    started: bool,
    gone: bool,
    pub(crate) out: Vec<Effect>,
}

impl Worker {
    /// A worker without trainers; send it a `Tick` and it connects.
    #[must_use]
    pub fn new(config: WorkerConfig) -> Self {
        Self {
            clock: Clock::default(),
            link: Link::new(&config),
            outbox: Outbox::new(config.max_reports),
            trainers: Trainers::default(),
            fences: Fences::default(),
            leaving: None,
            drain_until: None,
            warned_dropped: 0,
            faults: Faults::default(),
            to_forget: BTreeSet::new(),
            started: false,
            gone: false,
            out: Vec::new(),
            config,
        }
    }

    /// Takes an event at `now` (any clock, milliseconds) and says what to do, in order. After `Exit` nothing more
    /// comes.
    pub fn handle(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        self.clock.advance(now, self.config.max_step);
        self.started = true;
        if self.gone {
            return Vec::new();
        }
        match event {
            Event::SessionOpened { terms } => self.opened(terms.heartbeat),
            Event::SessionRefused { message, fatal } => self.refused(message, fatal),
            Event::SessionClosed { message } => self.closed(&message),
            Event::Command(command) => self.command(command),
            Event::Fault(order) => self.inject(&order),
            Event::Spawned { key } => self.spawned(&key),
            Event::SpawnFailed { key, message } => self.spawn_failed(&key, &message),
            Event::FromTrainer { key, message } => self.hear(&key, message),
            Event::Exited { key, exit } => self.exited(&key, &exit),
            Event::Shutdown => self.shutdown(),
            Event::Tick => {}
        }
        self.pass_time();
        self.check_left();
        std::mem::take(&mut self.out)
    }

    /// When to send a `Tick` at the latest, on the clock of the last `now`: the shell waits for the difference to
    /// that `now` on a clock that doesn't jump.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        if self.gone {
            return None;
        }
        if !self.started {
            return Some(0);
        }
        let next = self.deadlines().into_iter().flatten().min()?;
        Some(self.clock.wall_of(next, self.config.max_step))
    }

    /// The trainers that live, as the coordinator is told.
    #[must_use]
    pub fn trainers(&self) -> Vec<TrainerStatus> {
        let status = |(key, trainer): (&TrainerKey, &crate::trainers::Trainer)| TrainerStatus {
            job: key.job.clone(),
            epoch: key.epoch,
            rank: key.rank,
            phase: trainer.phase,
            data_address: trainer.address.clone(),
            step: trainer.step,
            in_memory: trainer.in_memory.clone(),
        };
        let queued = |key: &TrainerKey| TrainerStatus {
            job: key.job.clone(),
            epoch: key.epoch,
            rank: key.rank,
            phase: rekindle_types::TrainerPhase::Loading,
            data_address: None,
            step: 0,
            in_memory: InMemory::default(),
        };
        let living = self
            .trainers
            .living
            .iter()
            .filter(|(_, trainer)| trainer.counts());
        living
            .map(status)
            .chain(self.trainers.queued.keys().map(queued))
            .collect()
    }

    /// Step reports dropped for room since the start.
    #[must_use]
    pub fn dropped_reports(&self) -> u64 {
        self.outbox.dropped()
    }

    pub(crate) fn mono(&self) -> Mono {
        self.clock.mono()
    }

    /// Keeps a report and sends it if there is a session.
    pub(crate) fn report(&mut self, key: &TrainerKey, report: Report) {
        let report = self.outbox.push(key, report);
        if self.link.is_open() {
            self.out.push(Effect::Send {
                report: Box::new(report),
            });
        }
        let dropped = self.outbox.dropped();
        if self.warned_dropped == 0 && dropped > 0 {
            self.warned_dropped = dropped;
            let message =
                "step reports are dropped: the coordinator hasn't acknowledged any for too long".to_owned();
            self.out.push(Effect::Warn { message });
        }
    }

    fn opened(&mut self, heartbeat: Millis) {
        self.link.opened(self.mono(), heartbeat);
        self.warned_dropped = 0;
        if let Some(until) = self.drain_until {
            let grace = until.saturating_sub(self.mono());
            self.out.push(Effect::Drain { grace });
        }
        for report in self.outbox.waiting().cloned() {
            self.out.push(Effect::Send {
                report: Box::new(report),
            });
        }
    }

    fn refused(&mut self, message: String, fatal: bool) {
        let now = self.mono();
        let first = self.link.refused_since.is_none();
        let since = *self.link.refused_since.get_or_insert(now);
        if fatal || now >= since + self.config.refused_limit {
            self.leave(ExitReason::Refused { message });
            return;
        }
        self.closed(&message);
        if first {
            let seconds = self.config.refused_limit / 1_000;
            let message =
                format!("the coordinator refuses this worker; asking again for {seconds} s: {message}");
            self.out.push(Effect::Warn { message });
        }
    }

    fn closed(&mut self, message: &str) {
        if matches!(self.link.state, State::Down { .. }) {
            return;
        }
        if self.link.is_open() {
            let message = format!("the session with the coordinator ended: {message}");
            self.out.push(Effect::Warn { message });
        }
        let now = self.mono();
        self.link.broke(now, &self.config);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.start(*start),
            Command::Connect {
                job,
                epoch,
                peers,
                from,
            } => self.connect(&job, epoch, &Orders { peers, from }),
            Command::Forget { job } => self.forget(job),
            Command::Halt { job, epoch, .. } => self.halt(&job, epoch),
            Command::Stop { job, epoch, .. } => self.stop(&job, epoch),
            Command::Save { job, epoch, rank } => self.save(&job, epoch, rank),
            Command::Acknowledge { up_to } => self.outbox.acknowledge(up_to),
        }
    }

    /// Asked to leave: the coordinator is told at once, so that it has the state saved and the trainers stopped. What
    /// still runs after [`WorkerConfig::drain_limit`] is stopped all the same. Asked again: leaves at once.
    fn shutdown(&mut self) {
        if self.leaving.is_some() {
            self.exit();
            return;
        }
        let running = self
            .trainers
            .living
            .values()
            .any(crate::trainers::Trainer::counts);
        if running && self.link.is_open() && self.config.drain_limit > 0 {
            let grace = self.config.drain_limit;
            self.drain_until = Some(self.mono() + grace);
            self.leaving = Some((ExitReason::Shutdown, self.mono() + grace + self.leave_after()));
            self.out.push(Effect::Drain { grace });
        } else {
            self.leave(ExitReason::Shutdown);
        }
    }

    fn leave_after(&self) -> Millis {
        self.config.stop_grace + self.config.leave_limit
    }

    fn leave(&mut self, reason: ExitReason) {
        self.drain_until = None;
        self.leaving = Some((reason, self.mono() + self.leave_after()));
        self.stop_all();
    }

    /// The time to drain is over.
    fn end_drain(&mut self) {
        let due = self.drain_until.is_some_and(|at| self.mono() >= at);
        if due {
            self.leave(ExitReason::Shutdown);
        }
    }

    /// Leaves once nothing holds it: trainers gone, and their ends acknowledged unless nobody is there to do so.
    fn check_left(&mut self) {
        let Some((_, by)) = &self.leaving else { return };
        let told = !self.link.is_open() || self.outbox.waiting().next().is_none();
        if (self.trainers.living.is_empty() && told) || self.mono() >= *by {
            self.exit();
        }
    }

    fn exit(&mut self) {
        let keys: Vec<TrainerKey> = self.trainers.living.keys().cloned().collect();
        for key in keys {
            self.out.push(Effect::Kill { key });
        }
        self.out.push(Effect::CloseSession);
        let reason = self
            .leaving
            .take()
            .map_or(ExitReason::Shutdown, |(reason, _)| reason);
        self.out.push(Effect::Exit(reason));
        self.gone = true;
    }

    fn deadlines(&self) -> Vec<Option<Mono>> {
        let kill = self
            .trainers
            .living
            .values()
            .filter_map(|trainer| trainer.kill_at)
            .min();
        let leave = self.leaving.as_ref().map(|(_, by)| *by);
        let mut deadlines = vec![
            Some(self.link.deadline()),
            kill,
            leave,
            self.drain_until,
            self.orphaned_at(),
        ];
        deadlines.extend(self.fault_deadlines());
        deadlines.push(self.edit_deadlines().min());
        deadlines
    }

    /// When trainers are stopped for want of a coordinator.
    fn orphaned_at(&self) -> Option<Mono> {
        let unstopped = self
            .trainers
            .living
            .values()
            .any(|trainer| !trainer.stopping && trainer.counts());
        let alone = self.link.alone_since.filter(|_| unstopped)?;
        Some(alone + self.config.orphan_limit)
    }

    fn pass_time(&mut self) {
        let now = self.mono();
        if self.orphaned_at().is_some_and(|at| now >= at) {
            self.stop_all();
        }
        self.end_drain();
        self.pass_edits();
        self.kill_overdue();
        self.pass_faults();
        if now < self.link.deadline() {
            return;
        }
        match self.link.state {
            State::Open { every, .. } => {
                let heartbeat_at = now + every;
                self.link.state = State::Open { heartbeat_at, every };
                self.out.push(Effect::Heartbeat);
            }
            State::Down { .. } => self.open(),
            State::Opening { .. } => {
                self.out.push(Effect::CloseSession);
                self.link.broke(now, &self.config);
            }
        }
    }

    fn open(&mut self) {
        let until = self.mono() + self.config.open_limit.max(1);
        self.link.state = State::Opening { until };
        let config = &self.config;
        let registration = Registration {
            worker: config.worker.clone(),
            incarnation: config.incarnation,
            version: config.version.clone(),
            data_host: config.data_host.clone(),
            threads: config.threads,
            device: config.device,
            slots: config.slots,
            memory_bytes: config.memory_bytes,
            trainers: self.trainers(),
            kept: config.kept.clone(),
        };
        self.out.push(Effect::OpenSession {
            registration: Box::new(registration),
        });
    }
}

#[cfg(test)]
#[path = "tests.rs"]
pub(crate) mod tests;

#[cfg(test)]
#[path = "tests_edits.rs"]
mod tests_edits;

#[cfg(test)]
#[path = "tests_long.rs"]
mod tests_long;
